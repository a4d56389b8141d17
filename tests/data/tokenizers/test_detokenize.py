"""Incremental detokenization."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertgpt.data.tokenizers.detokenize import IncrementalDetokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.data.tokenizers.train import train_tokenizer


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    return train_tokenizer("wordpiece", 400, ["a snail hears the unbelievable sound of rain"] * 50)


def detokenize(tokenizer: Tokenizer, ids: list[int]) -> str:
    detokenizer = IncrementalDetokenizer(tokenizer)
    return "".join([*(detokenizer.add(i) for i in ids), detokenizer.flush()])


@settings(deadline=None, max_examples=200)
@given(numbers=st.lists(st.integers(0, 10_000)))
def test_concatenated_output_equals_decode(numbers: list[int], tokenizer: Tokenizer, wordpiece: Tokenizer) -> None:
    """With invalid UTF-8, special ids and word pieces."""
    for each in (tokenizer, wordpiece):
        ids = [number % (each.max_id + 1) for number in numbers]
        assert detokenize(each, ids) == each.decode(ids)


def test_incomplete_characters_are_held_back(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a \N{SNOWMAN}!")
    assert len(ids) > 4  # the snowman is several ids
    detokenizer = IncrementalDetokenizer(tokenizer)
    output = [detokenizer.add(i) for i in ids]
    assert "�" not in "".join(output)
    assert output[-1] == "!"
    detokenizer.add(tokenizer.encode("\N{SNOWMAN}")[0])
    assert detokenizer.flush() == "�"


def test_first_word_after_a_prompt_has_a_space(wordpiece: Tokenizer, tmp_path: Path) -> None:
    ids = wordpiece.encode("rain sound")
    assert [IncrementalDetokenizer(wordpiece, continuing).add(ids[0])[:1] for continuing in (True, False)] == [" ", "r"]
