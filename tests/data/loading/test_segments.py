"""Segments: each token is used once, splits are between words, negatives come from other documents."""

import numpy as np
import pytest

from bertgpt.data.loading.segments import (
    IS_NEXT,
    NOT_NEXT,
    UNPAIRED,
    SegmentSpans,
    WordBoundaries,
    best_fit_decreasing,
    sample_negatives,
    split_into_pairs,
    split_into_segments,
)
from bertgpt.utils.errors import BertGPTError


def documents(sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Start and stop of consecutive documents, each followed by an end-of-text id."""
    stop = np.cumsum(np.array(sizes) + 1) - 1
    return stop - np.array(sizes), stop


def random_words(total: int, seed: int = 0) -> np.ndarray:
    """Which tokens start a word: most words have one or two tokens."""
    starts_word = np.random.default_rng(seed).random(total) < 0.7
    starts_word[0] = True
    return starts_word


SIZES = [0, 1, 2, 3, 11, 12, 13, 30, 500, 7, 1, 64]


def covered(segments: SegmentSpans) -> list[int]:
    """The stream offsets of all tokens of the segments."""
    spans = [(segments.a_start, segments.a_len), (segments.b_start, segments.b_len)]
    return sorted(
        offset
        for starts, sizes in spans
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
        for offset in range(start, start + size)
    )


def of_documents(start: np.ndarray, stop: np.ndarray) -> list[int]:
    """The stream offsets of all tokens of the documents."""
    return [offset for a, b in zip(start.tolist(), stop.tolist(), strict=True) for offset in range(a, b)]


@pytest.mark.parametrize("max_len", [1, 2, 11, 1000])
def test_split_into_segments(max_len: int) -> None:
    start, stop = documents(SIZES)
    starts_word = random_words(int(stop[-1]) + 1)
    starts_word[100:140] = False  # a word that is longer than a segment
    segments = split_into_segments(start, stop, WordBoundaries(starts_word), max_len)
    assert covered(segments) == of_documents(start, stop)
    assert segments.a_len.max() <= max_len
    assert (segments.a_start >= start[segments.document]).all()
    assert (segments.a_start + segments.a_len <= stop[segments.document]).all()
    if max_len == 11:
        inner = segments.a_start[~np.isin(segments.a_start, start)]
        assert (starts_word[inner] | ((inner > 100) & (inner < 141))).all()
        full = segments.a_len[segments.document == 8]
        assert full[:-1].mean() > 10


@pytest.mark.parametrize(("max_a_len", "max_b_len"), [(5, 6), (62, 63), (2, 3)])
def test_split_into_pairs(max_a_len: int, max_b_len: int) -> None:
    start, stop = documents(SIZES)
    starts_word = random_words(int(stop[-1]) + 1)
    segments = split_into_pairs(start, stop, WordBoundaries(starts_word), max_a_len, max_b_len)
    assert covered(segments) == of_documents(start, stop)
    paired = segments.b_len > 0
    assert (segments.label[paired] == IS_NEXT).all()
    assert (segments.label[~paired] == UNPAIRED).all()
    assert segments.a_len[paired].max() <= max_a_len
    assert segments.b_len.max() <= max_b_len
    assert (segments.length_with_specials <= max_a_len + max_b_len + 3).all()
    assert (segments.b_start[paired] == (segments.a_start + segments.a_len)[paired]).all()
    lone = segments.a_len[~paired]
    assert len(lone) <= len(SIZES)
    if max_a_len == 62:
        assert 0.35 < (segments.a_len[paired] / (segments.a_len + segments.b_len)[paired]).mean() < 0.65


def pairs(count: int, documents: int) -> SegmentSpans:
    start = np.arange(count) * 10
    five = np.full(count, 5)
    label = np.full(count, IS_NEXT, np.uint8)
    return SegmentSpans(start, five, start + 5, five, np.sort(np.arange(count) % documents), label)


def test_nsp_negatives_come_from_other_documents_and_no_token_is_lost() -> None:
    before = pairs(1001, 50)
    after = sample_negatives(before, "nsp", 7, 0, "file")
    negative = after.label == NOT_NEXT
    assert negative.sum() == 500
    document_of = dict(zip(before.b_start.tolist(), before.document.tolist(), strict=True))
    origin = np.array([document_of[start] for start in after.b_start.tolist()])
    assert (origin[negative] != after.document[negative]).all()
    assert (origin[~negative] == after.document[~negative]).all()
    assert covered(after) == covered(before)
    again, other = sample_negatives(before, "nsp", 7, 0, "file"), sample_negatives(before, "nsp", 8, 0, "file")
    assert np.array_equal(again.b_start, after.b_start)
    assert not np.array_equal(other.label, after.label)


def test_sop_negatives_are_swapped_pairs() -> None:
    before = pairs(1000, 1)
    after = sample_negatives(before, "sop", 7, 0, "file")
    negative = after.label == NOT_NEXT
    assert negative.sum() == 500
    assert (after.a_start[negative] == before.b_start[negative]).all()
    assert (after.b_start[negative] == before.a_start[negative]).all()
    assert covered(after) == covered(before)


def test_negatives_need_other_documents() -> None:
    with pytest.raises(BertGPTError) as error:
        sample_negatives(pairs(10, 1), "nsp", 7, 0, "val-00000.arrow")
    assert error.value.code == "BG316"
    assert "--shard-tokens" in str(error.value.hint)
    sample_negatives(pairs(0, 1), "nsp", 7, 0, "val-00000.arrow")


def test_packing_keeps_all_segments_with_little_padding() -> None:
    rng = np.random.default_rng(0)
    sizes = np.concatenate([rng.integers(3, 129, 5000), np.full(3000, 128)])
    row_of, rows = best_fit_decreasing(sizes, 128)
    filled = np.bincount(row_of, weights=sizes, minlength=rows)
    assert filled.max() <= 128
    assert filled.min() > 0
    assert 1 - filled.sum() / (rows * 128) < 0.01
    assert best_fit_decreasing(np.zeros(0, np.int64), 128)[1] == 0
