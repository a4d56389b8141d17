"""Tables, sampler and parser."""

import math
from itertools import count

import pytest

from bertgpt.tinyworld.grammar import END, NotInLanguage, Parser, Sampler, Table, tokens_of


def test_duplicate_phrases_and_prefixes_are_rejected() -> None:
    with pytest.raises(ValueError, match="prefix of 'with great care'"):
        Table([" with great care", " with"])
    with pytest.raises(ValueError, match="duplicate phrase"):
        Table([" a", " b", " a"])


def test_overlapping_lookahead_sets_are_rejected() -> None:
    for lookahead in ([frozenset({"Then"}), frozenset({"Then", "Soon"})], [None, None]):
        with pytest.raises(ValueError, match="lookahead sets of two empty phrases overlap"):
            Table(["", ""], lookahead=lookahead)


def test_sampler_raises_if_all_phrases_are_excluded() -> None:
    with pytest.raises(ValueError, match="all phrases are excluded"):
        Sampler(iter([0.1, 0.2])).select(Table([" a", " b"]), [" a", " b"])


def test_log_probabilities_of_the_words_of_a_phrase() -> None:
    table = Table([" the old mill", " the old barn", " the sea", " a ship"], [1, 2, 3, 4])
    probs = [math.exp(logp) for logp in table.word_logps(0, ())]
    assert probs == pytest.approx([0.6, 0.5, 1 / 3])
    assert [math.exp(logp) for logp in table.word_logps(0, [" the old barn"])] == pytest.approx([0.5, 0.25, 1.0])
    assert table.word_logps(3, ()) == [math.log(0.4), 0.0]


def test_sampler_follows_the_weights() -> None:
    draws = (i / 10_000 for i in range(10_000))
    sampler = Sampler(draws)
    table = Table([" a", " b", " c"], [5, 3, 2])
    chosen = [sampler.select(table) for _ in range(10_000)]
    assert [chosen.count(i) for i in range(3)] == [5000, 3000, 2000]
    assert sampler.logp == pytest.approx(5000 * math.log(0.5) + 3000 * math.log(0.3) + 2000 * math.log(0.2))


def test_sampler_draws_again_if_a_phrase_is_excluded() -> None:
    sampler = Sampler(iter([0.1, 0.2, 0.9]))
    assert sampler.select(Table([" a", " b"], [3, 1]), [" a"]) == 1
    assert sampler.logp == pytest.approx(0.0)


def test_parser_recovers_an_empty_option_from_the_next_word() -> None:
    kinds = Table(["", "", END], [1, 2, 1], lookahead=[frozenset({"Then"}), None, None])
    for text, kind in (("Then", 0), ("Tom", 1), (END, 2)):
        assert Parser(tokens_of(text)).select(kinds) == kind


def test_log_probability_of_an_empty_option_is_added_to_the_next_word() -> None:
    parser = Parser(("Tom", "sang"))
    assert parser.select(Table(["", " Then"])) == 0
    assert parser.select_from([" Tom", " Ada"], [1.0, 3.0], ["names", "names"]) == 0
    parser.emit(" sang")
    assert [(w.text, w.category) for w in parser.words] == [("Tom", "names"), ("sang", "rest")]
    assert [math.exp(w.logp) for w in parser.words] == pytest.approx([0.125, 1.0])


def test_parser_reports_the_position_of_the_error() -> None:
    parser = Parser(("the", "boat"))
    parser.emit(" the")
    with pytest.raises(NotInLanguage, match=r"word 1 \('boat'\)"):
        parser.select(Table([" ship", " raft"]))
    with pytest.raises(NotInLanguage, match="the end"):
        Parser(()).emit(" the")


def test_rounding_errors_go_to_the_last_option() -> None:
    sampler = Sampler(0.9999999999999999 for _ in count())
    assert sampler.select_from([" a", " b", " c"], [0.1, 0.1, 0.1], ["rest"] * 3) == 2
    assert sampler.select(Table([" a", " b", " c"], [0.1, 0.1, 0.1])) == 2
