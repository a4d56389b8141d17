"""Packed classification batches: each text is there once, and packing does not change its logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bertgpt.data.loading.classification import EncodedExample, first_fit_decreasing, pack_batch
from bertgpt.inference.classify import encode_examples, predict_logits, truncate_pair
from bertgpt.utils import console
from tests.fixtures.finetuning import saved_of
from tests.fixtures.models import random_classifier

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_packed_texts_do_not_overlap(lengths: list[int]) -> None:
    capacity = max(lengths)
    placement, rows = first_fit_decreasing(lengths, capacity)
    used = np.zeros((rows, capacity), int)
    for length, (row, start) in zip(lengths, placement, strict=True):
        assert start + length <= capacity
        used[row, start : start + length] += 1
    assert used.max() == 1
    assert used.sum(axis=1).min() > 0
    assert rows <= 1 + 1.5 * sum(lengths) / capacity + 1  # little padding


@pytest.mark.parametrize("causal", [True, False])
def test_packed_batch(causal: bool) -> None:
    examples = [EncodedExample([7, 8, 9], 2), EncodedExample([1, 2, 3, 4, 5], 5), EncodedExample([6], 1)]
    batch = pack_batch(examples, np.array([0, 1, 0]), causal)
    assert batch.input_ids.shape == (2, 5)
    for number, example in enumerate(examples):
        row, length = batch.row_index[number], len(example.input_ids)
        inside = batch.document_ids[row] == number + 1
        assert batch.input_ids[row][inside].tolist() == example.input_ids
        assert batch.position_ids[row][inside].tolist() == list(range(length))
        assert batch.token_type_ids[row][inside].tolist() == [int(i >= example.sentence_b_start) for i in range(length)]
        assert batch.input_ids[row, batch.pool_index[number]] == example.input_ids[-1 if causal else 0]
    assert (batch.document_ids == 0).sum() == 1  # padding


@pytest.mark.parametrize("family", ["gpt2", "bert", "encoder", "decoder"])
def test_packing_does_not_change_logits(family: str, bases: dict[str, Path]) -> None:
    pretrained = saved_of(bases[family])
    classifier = random_classifier(pretrained.model, pretrained.objective == "clm")
    texts = ["She was glad.", "It rained in the town, and nobody came to the clock shop. " * 4, "", "No.", "A purse"]
    for others in (None, ["He was not.", "", "x", "The dogs slept.", "He lost it"]):
        examples = encode_examples(pretrained, texts, others, 128)
        together = predict_logits(classifier, examples, CPU)
        alone = np.concatenate([predict_logits(classifier, [example], CPU) for example in examples])
        assert np.abs(together - alone).max() < 1e-5


def test_long_texts_are_truncated_with_a_note(bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of ten thousand words, and a pair of which the longer text is truncated."""
    notes: list[str] = []
    monkeypatch.setattr(console, "info", notes.append)
    for family in ("bert", "gpt2"):
        pretrained = saved_of(bases[family])
        tokenizer = pretrained.tokenizer
        long, short = encode_examples(pretrained, ["rain " * 10_000, "short"], None, 32)
        assert len(long.input_ids) == 32
        assert len(short.input_ids) == len(tokenizer.encode("short")) + 1 + (family == "bert")
        assert notes[-1].startswith("1 of 2 texts truncated to 32 tokens")
        pair = encode_examples(pretrained, ["rain " * 100], ["She was glad."], 32)[0]
        b = tokenizer.encode("She was glad.")
        ends = [tokenizer.roles["sep"]] if family == "bert" else []
        assert len(pair.input_ids) == 32
        assert pair.input_ids[-len(b) - len(ends) :] == [*b, *ends]


def test_truncate_pair() -> None:
    long, short = list(range(10)), [1, 2]
    assert truncate_pair(long, short, 6) == (long[:4], short)
    assert truncate_pair(short, long, 6) == (short, long[:4])
    assert [len(part) for part in truncate_pair(long, long, 7)] == [4, 3]
    assert truncate_pair(long, [], 3) == (long[:3], [])
