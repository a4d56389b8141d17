"""Tables, and the two tellers."""

import math
from itertools import count

import pytest

from bertgpt.tinyworld.grammar import END, NotInLanguage, Parser, Sampler, Table, tokens_of


def test_phrases_that_begin_alike_or_stand_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="beginning of 'with great care'"):
        Table([" with great care", " with"])
    with pytest.raises(ValueError, match="twice"):
        Table([" a", " b", " a"])


def test_silent_options_that_one_word_reveals_are_refused() -> None:
    for leads in ([frozenset({"Then"}), frozenset({"Then", "Soon"})], [None, None]):
        with pytest.raises(ValueError, match="revealed by the same word"):
            Table(["", ""], lookahead=leads)


def test_a_writer_does_not_look_for_ever_for_what_is_not_there() -> None:
    with pytest.raises(ValueError, match="nothing is left"):
        Sampler(iter([0.1, 0.2])).choose(Table([" a", " b"]), [" a", " b"])


def test_words_of_phrases_share_what_they_have_in_common() -> None:
    table = Table([" the old mill", " the old barn", " the sea", " a ship"], [1, 2, 3, 4])
    in_words = [math.exp(logp) for logp in table.word_logps(0, ())]
    assert in_words == pytest.approx([0.6, 0.5, 1 / 3])
    assert [math.exp(logp) for logp in table.word_logps(0, [" the old barn"])] == pytest.approx([0.5, 0.25, 1.0])
    assert table.word_logps(3, ()) == [math.log(0.4), 0.0]


def test_a_writer_follows_the_weights() -> None:
    draws = (i / 10_000 for i in range(10_000))
    writer = Sampler(draws)
    table = Table([" a", " b", " c"], [5, 3, 2])
    chosen = [writer.choose(table) for _ in range(10_000)]
    assert [chosen.count(i) for i in range(3)] == [5000, 3000, 2000]
    assert writer.logp == pytest.approx(5000 * math.log(0.5) + 3000 * math.log(0.3) + 2000 * math.log(0.2))


def test_a_writer_draws_again_for_what_is_taken() -> None:
    writer = Sampler(iter([0.1, 0.2, 0.9]))
    assert writer.choose(Table([" a", " b"], [3, 1]), [" a"]) == 1
    assert writer.logp == pytest.approx(0.0)


def test_a_reader_finds_a_silent_choice_by_what_follows() -> None:
    kinds = Table(["", "", END], [1, 2, 1], lookahead=[frozenset({"Then"}), None, None])
    for text, kind in (("Then", 0), ("Tom", 1), (END, 2)):
        assert Parser(tokens_of(text)).choose(kinds) == kind


def test_the_first_word_after_a_silent_choice_carries_it() -> None:
    reader = Parser(("Tom", "sang"))
    assert reader.choose(Table(["", " Then"])) == 0
    assert reader.choose_from([" Tom", " Ada"], [1.0, 3.0], ["names", "names"]) == 0
    reader.emit(" sang")
    assert [(w.text, w.category) for w in reader.words] == [("Tom", "names"), ("sang", "rest")]
    assert [math.exp(w.logp) for w in reader.words] == pytest.approx([0.125, 1.0])


def test_a_reader_says_where_it_stopped() -> None:
    reader = Parser(("the", "boat"))
    reader.emit(" the")
    with pytest.raises(NotInLanguage, match=r"word 1 \('boat'\)"):
        reader.choose(Table([" ship", " raft"]))
    with pytest.raises(NotInLanguage, match="the end"):
        Parser(()).emit(" the")


def test_a_pick_takes_the_last_option_when_rounding_leaves_a_rest() -> None:
    writer = Sampler(0.9999999999999999 for _ in count())
    assert writer.choose_from([" a", " b", " c"], [0.1, 0.1, 0.1], ["rest"] * 3) == 2
    assert writer.choose(Table([" a", " b", " c"], [0.1, 0.1, 0.1])) == 2
