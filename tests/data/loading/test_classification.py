"""Rows without padding: every text is there once, sees itself only, and is told the same as when it stands alone."""

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
from tests.fixtures.models import classifier_of

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_texts_have_places_of_their_own(lengths: list[int]) -> None:
    capacity = max(lengths)
    where, rows = first_fit_decreasing(lengths, capacity)
    used = np.zeros((rows, capacity), int)
    for length, (row, start) in zip(lengths, where, strict=True):
        assert start + length <= capacity
        used[row, start : start + length] += 1
    assert used.max() == 1
    assert used.sum(axis=1).min() > 0
    assert rows <= 1 + 1.5 * sum(lengths) / capacity + 1  # little is left empty


@pytest.mark.parametrize("causal", [True, False])
def test_what_stands_in_a_row(causal: bool) -> None:
    texts = [EncodedExample([7, 8, 9], 2), EncodedExample([1, 2, 3, 4, 5], 5), EncodedExample([6], 1)]
    rows = pack_batch(texts, np.array([0, 1, 0]), causal)
    assert rows.ids.shape == (2, 5)
    for number, text in enumerate(texts):
        row = rows.rows[number]
        inside = rows.documents[row] == number + 1
        assert rows.ids[row][inside].tolist() == text.ids
        assert rows.positions[row][inside].tolist() == list(range(len(text.ids)))
        assert rows.segments[row][inside].tolist() == [int(i >= text.second_start) for i in range(len(text.ids))]
        assert rows.ids[row, rows.places[number]] == text.ids[-1 if causal else 0]
    assert (rows.documents == 0).sum() == 1  # what fills up


@pytest.mark.parametrize("family", ["gpt2", "bert", "encoder", "decoder"])
def test_company_changes_no_answer(family: str, bases: dict[str, Path]) -> None:
    kept = saved_of(bases[family])
    classifier = classifier_of(kept.model, kept.objective == "clm")
    lines = ["She was glad.", "It rained in the town, and nobody came to the clock shop. " * 4, "", "No.", "A purse"]
    for others in (None, ["He was not.", "", "x", "The dogs slept.", "He lost it"]):
        texts = encode_examples(kept, lines, others, 128)
        together = predict_logits(classifier, texts, CPU)
        alone = np.concatenate([predict_logits(classifier, [text], CPU) for text in texts])
        assert np.abs(together - alone).max() < 1e-5


def test_what_is_too_long_is_cut_and_counted(bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand words, or two texts of which the longer one has to give."""
    notes: list[str] = []
    monkeypatch.setattr(console, "note", notes.append)
    for family in ("bert", "gpt2"):
        kept = saved_of(bases[family])
        long = encode_examples(kept, ["rain " * 10_000, "short"], None, 32)
        assert [len(text.ids) for text in long] == [32, len(kept.tokenizer.encode("short")) + 1 + (family == "bert")]
        assert notes[-1].startswith("1 of 2 texts are longer than rows of 32 tokens")
        pair = encode_examples(kept, ["rain " * 100], ["She was glad."], 32)[0]
        b = kept.tokenizer.encode("She was glad.")
        ends = [kept.tokenizer.roles["sep"]] if family == "bert" else []
        assert len(pair.ids) == 32
        assert pair.ids[-len(b) - len(ends) :] == [*b, *ends]


def test_room_for_two() -> None:
    long, short = list(range(10)), [1, 2]
    assert truncate_pair(long, short, 6) == (long[:4], short)
    assert truncate_pair(short, long, 6) == (short, long[:4])
    assert [len(part) for part in truncate_pair(long, long, 7)] == [4, 3]
    assert truncate_pair(long, [], 3) == (long[:3], [])
