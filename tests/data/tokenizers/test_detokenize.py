"""Ids to text one by one."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertgpt.data.tokenizers.detokenize import IncrementalDetokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.data.tokenizers.train import train_tokenizer


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    return train_tokenizer("wordpiece", 400, ["a snail hears the unbelievable sound of rain"] * 50)


def spelled(tokenizer: Tokenizer, ids: list[int]) -> str:
    speller = IncrementalDetokenizer(tokenizer)
    return "".join([*(speller.add(i) for i in ids), speller.flush()])


@settings(deadline=None, max_examples=200)
@given(numbers=st.lists(st.integers(0, 10_000)))
def test_all_that_was_said_is_what_the_tokenizer_decodes(
    numbers: list[int], tokenizer: Tokenizer, pieces: Tokenizer
) -> None:
    """Bytes that are no UTF-8, special ids and words in pieces among them."""
    for each in (tokenizer, pieces):
        ids = [number % (each.max_id + 1) for number in numbers]
        assert spelled(each, ids) == each.decode(ids)


def test_half_a_character_is_held_back(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a \N{SNOWMAN}!")
    assert len(ids) > 4  # the snowman is several ids
    speller = IncrementalDetokenizer(tokenizer)
    said = [speller.add(i) for i in ids]
    assert "�" not in "".join(said)
    assert said[-1] == "!"
    speller.add(tokenizer.encode("\N{SNOWMAN}")[0])
    assert speller.flush() == "�"


def test_a_word_behind_a_prompt_has_a_space_before_it(pieces: Tokenizer, tmp_path: Path) -> None:
    ids = pieces.encode("rain sound")
    assert [IncrementalDetokenizer(pieces, goes_on).add(ids[0])[:1] for goes_on in (True, False)] == [" ", "r"]
