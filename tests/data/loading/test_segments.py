"""Documents cut, paired and packed: nothing is lost, nothing is twice, and cuts are between words."""

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
    """Documents one after the other, with an end id between them."""
    stop = np.cumsum(np.array(sizes) + 1) - 1
    return stop - np.array(sizes), stop


def words(total: int, seed: int = 0) -> np.ndarray:
    """Where words begin: most are of one or two ids."""
    begins = np.random.default_rng(seed).random(total) < 0.7
    begins[0] = True
    return begins


SIZES = [0, 1, 2, 3, 11, 12, 13, 30, 500, 7, 1, 64]


def covered(pieces: SegmentSpans) -> list[int]:
    """Every place of the stream that is in a piece."""
    spans = [(pieces.a_start, pieces.a_len), (pieces.b_start, pieces.b_len)]
    return sorted(
        place
        for starts, sizes in spans
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
        for place in range(start, start + size)
    )


def of_documents(start: np.ndarray, stop: np.ndarray) -> list[int]:
    return [place for a, b in zip(start.tolist(), stop.tolist(), strict=True) for place in range(a, b)]


@pytest.mark.parametrize("longest", [1, 2, 11, 1000])
def test_cut(longest: int) -> None:
    start, stop = documents(SIZES)
    begins = words(int(stop[-1]) + 1)
    begins[100:140] = False  # a word that is longer than a piece
    pieces = split_into_segments(start, stop, WordBoundaries(begins), longest)
    assert covered(pieces) == of_documents(start, stop)
    assert pieces.a_len.max() <= longest
    assert (pieces.a_start >= start[pieces.document]).all()
    assert (pieces.a_start + pieces.a_len <= stop[pieces.document]).all()
    if longest == 11:
        inner = pieces.a_start[~np.isin(pieces.a_start, start)]
        assert (begins[inner] | ((inner > 100) & (inner < 141))).all()
        full = pieces.a_len[pieces.document == 8]
        assert full[:-1].mean() > 10


@pytest.mark.parametrize(("first", "second"), [(5, 6), (62, 63), (2, 3)])
def test_cut_in_pairs(first: int, second: int) -> None:
    start, stop = documents(SIZES)
    begins = words(int(stop[-1]) + 1)
    pieces = split_into_pairs(start, stop, WordBoundaries(begins), first, second)
    assert covered(pieces) == of_documents(start, stop)
    paired = pieces.b_len > 0
    assert (pieces.label[paired] == IS_NEXT).all()
    assert (pieces.label[~paired] == UNPAIRED).all()
    assert pieces.a_len[paired].max() <= first
    assert pieces.b_len.max() <= second
    assert (pieces.length_with_specials <= first + second + 3).all()
    assert (pieces.b_start[paired] == (pieces.a_start + pieces.a_len)[paired]).all()
    lone = pieces.a_len[~paired]
    assert len(lone) <= len(SIZES)
    if first == 62:
        assert 0.35 < (pieces.a_len[paired] / (pieces.a_len + pieces.b_len)[paired]).mean() < 0.65


def pairs(count: int, documents: int) -> SegmentSpans:
    start = np.arange(count) * 10
    five = np.full(count, 5)
    label = np.full(count, IS_NEXT, np.uint8)
    return SegmentSpans(start, five, start + 5, five, np.sort(np.arange(count) % documents), label)


def test_negatives_come_from_other_documents_and_nothing_is_lost() -> None:
    before = pairs(1001, 50)
    after = sample_negatives(before, "nsp", 7, 0, "file")
    wrong = after.label == NOT_NEXT
    assert wrong.sum() == 500
    home = dict(zip(before.b_start.tolist(), before.document.tolist(), strict=True))
    origin = np.array([home[start] for start in after.b_start.tolist()])
    assert (origin[wrong] != after.document[wrong]).all()
    assert (origin[~wrong] == after.document[~wrong]).all()
    assert covered(after) == covered(before)
    again, other = sample_negatives(before, "nsp", 7, 0, "file"), sample_negatives(before, "nsp", 8, 0, "file")
    assert np.array_equal(again.b_start, after.b_start)
    assert not np.array_equal(other.label, after.label)


def test_order_is_what_is_wrong_with_sop() -> None:
    before = pairs(1000, 1)
    after = sample_negatives(before, "sop", 7, 0, "file")
    wrong = after.label == NOT_NEXT
    assert wrong.sum() == 500
    assert (after.a_start[wrong] == before.b_start[wrong]).all()
    assert (after.b_start[wrong] == before.a_start[wrong]).all()
    assert covered(after) == covered(before)


def test_one_document_alone_has_no_others() -> None:
    with pytest.raises(BertGPTError) as error:
        sample_negatives(pairs(10, 1), "nsp", 7, 0, "val-00000.arrow")
    assert error.value.code == "BG316"
    assert "--shard-tokens" in str(error.value.hint)
    sample_negatives(pairs(0, 1), "nsp", 7, 0, "val-00000.arrow")


def test_packing_loses_nothing_and_wastes_little() -> None:
    draw = np.random.default_rng(0)
    sizes = np.concatenate([draw.integers(3, 129, 5000), np.full(3000, 128)])
    row_of, rows = best_fit_decreasing(sizes, 128)
    filled = np.bincount(row_of, weights=sizes, minlength=rows)
    assert filled.max() <= 128
    assert filled.min() > 0
    assert 1 - filled.sum() / (rows * 128) < 0.01
    assert best_fit_decreasing(np.zeros(0, np.int64), 128)[1] == 0
