"""Segments: documents split at word boundaries, paired for NSP or SOP, and packed into rows.

A segment is `[CLS] A [SEP]`, or `[CLS] A [SEP] B [SEP]` if sentences are paired. Documents are split between words
wherever a word ends in time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.rng import hash_key, uniform

IS_NEXT, NOT_NEXT, UNPAIRED = 0, 1, 2  # next-sentence labels; a segment without sentence B has no NSP loss
PAIR_SALT, ORDER_SALT = 5, 6

Offsets = NDArray[np.int64]
# Where the next segment of each document splits and where it ends, given where it starts and where the document ends.
Cut = Callable[[Offsets, Offsets], tuple[Offsets, Offsets]]


@dataclass(frozen=True)
class SegmentSpans:
    """Start and length of sentences A and B of each segment, in the token stream of a shard; B may be empty."""

    a_start: Offsets
    a_len: Offsets
    b_start: Offsets
    b_len: Offsets
    document: Offsets  # of sentence A
    label: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.a_start)

    @property
    def length_with_specials(self) -> Offsets:
        """The length of each segment with its special tokens."""
        return self.a_len + 2 + np.where(self.b_len > 0, self.b_len + 1, 0)


class WordBoundaries:
    """Where documents may be split: before tokens that start a word."""

    def __init__(self, starts_word: NDArray[np.bool_]) -> None:
        size = len(starts_word)
        index = np.arange(size + 1)
        boundary = np.append(starts_word, True)
        self.before = np.maximum.accumulate(np.where(boundary, index, -1))  # the last boundary at or before an index
        self.after = np.minimum.accumulate(np.where(boundary, index, size)[::-1])[::-1]  # the first at or after it

    def cut(self, start: Offsets, stop: Offsets, max_len: int) -> Offsets:
        """The end of a sentence from `start`: the last boundary within `max_len`, or inside a word longer than that."""
        end = np.minimum(start + max_len, stop)
        boundary = self.before[end]
        return np.where((end < stop) & (boundary > start), boundary, end)

    def cut_middle(self, start: Offsets, stop: Offsets, max_len: int) -> Offsets:
        """Where to split the rest of a document in two, near its middle; `stop` if it cannot be split."""
        half = np.minimum((stop - start + 1) // 2, max_len)
        before, after = self.before[start + half], self.after[np.minimum(start + 1, stop)]
        last = np.minimum(start + max_len, stop - 1)
        return np.where(before > start, before, np.where(after <= last, after, stop))


def split_into_segments(start: Offsets, stop: Offsets, boundaries: WordBoundaries, max_len: int) -> SegmentSpans:
    """Split documents into segments of one sentence each, of at most `max_len` tokens."""

    def cut(position: Offsets, last: Offsets) -> tuple[Offsets, Offsets]:
        end = boundaries.cut(position, last, max_len)
        return end, end

    return split_documents(start, stop, cut)


def split_into_pairs(
    start: Offsets, stop: Offsets, boundaries: WordBoundaries, max_a_len: int, max_b_len: int
) -> SegmentSpans:
    """Split documents into segments of two consecutive sentences, of at most `max_a_len` and `max_b_len` tokens."""

    def cut(position: Offsets, last: Offsets) -> tuple[Offsets, Offsets]:
        fits = last - position <= max_a_len + max_b_len  # the rest of the document is one segment
        halved, full = boundaries.cut_middle(position, last, max_a_len), boundaries.cut(position, last, max_a_len)
        middle = np.where(fits, halved, full)
        return middle, np.where(middle < last, boundaries.cut(middle, last, max_b_len), last)

    return split_documents(start, stop, cut)


def split_documents(start: Offsets, stop: Offsets, cut: Cut) -> SegmentSpans:
    """Cut segment after segment off all documents at once; returns them in the order of the token stream."""
    document = np.flatnonzero(start < stop)
    position, last = start[document], stop[document]
    segments = [np.zeros((4, 0), np.int64)]
    while len(position):
        middle, end = cut(position, last)
        segments.append(np.stack([position, middle, end, document]))
        unfinished = end < last
        position, last, document = end[unfinished], last[unfinished], document[unfinished]
    columns = np.concatenate(segments, axis=1)
    start, middle, stop, document = columns[:, np.argsort(columns[0], kind="stable")]
    paired = middle < stop
    label = np.where(paired, IS_NEXT, UNPAIRED).astype(np.uint8)
    return SegmentSpans(start, middle - start, np.where(paired, middle, 0), stop - middle, document, label)


# ------------------------------------------------------------------------------------------------- sentence pairs


def sample_negatives(segments: SegmentSpans, task: str, seed: int, shard: int, path: str) -> SegmentSpans:
    """Make half of the pairs negative: B from another document (nsp), or A and B swapped (sop)."""
    pairs = np.flatnonzero(segments.label == IS_NEXT)
    draws = uniform(seed, hash_key(PAIR_SALT, pairs.astype(np.uint64) + np.uint64(shard << 40)), 1)[:, 0]
    negative = np.sort(pairs[np.argsort(draws, kind="stable")[: len(pairs) // 2]])
    a, b = np.stack([segments.a_start, segments.a_len]), np.stack([segments.b_start, segments.b_len])
    label = segments.label.copy()
    label[negative] = NOT_NEXT
    if task == "sop":
        a[:, negative], b[:, negative] = b[:, negative], a[:, negative]
    else:
        donor = derangement(segments.document[negative], seed, shard, path)
        b[:, negative] = b[:, negative[donor]]
    return SegmentSpans(a[0], a[1], b[0], b[1], segments.document, label)


def derangement(document: Offsets, seed: int, shard: int, path: str) -> Offsets:
    """A random permutation that gives each pair something of another document.

    Documents are put in random order, each with all its pairs; then everyone takes from as many pairs further on as the
    largest document has. That is another document, unless one document has more than half of all pairs.
    """
    if not len(document):
        return np.zeros(0, np.int64)
    documents, inverse, sizes = np.unique(document, return_inverse=True, return_counts=True)
    largest = int(sizes.max())
    if 2 * largest > len(document):
        raise BertGPTError(
            "BG316",
            "cannot sample negatives: one document owns over half the pairs of a shard",
            path=path,
            hint="make shards with a larger --shard-tokens or --val-fraction, or use --sentence-pairs sop",
        )
    draws = uniform(seed, hash_key(ORDER_SALT, documents.astype(np.uint64) + np.uint64(shard << 40)), 1)[:, 0]
    order = np.argsort(draws[inverse], kind="stable")
    donor = np.empty_like(order)
    donor[order] = np.roll(order, -largest)
    return donor


# ------------------------------------------------------------------------------------------------------- packing


def best_fit_decreasing(sizes: Offsets, capacity: int) -> tuple[Offsets, int]:
    """Bin packing, longest first, into the fullest row with room: the row of each segment, and the number of rows."""
    row_of = np.empty(len(sizes), np.int64)
    rows_by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    has_room = 0  # bit r is set if there is a row with room for exactly r tokens
    rows = 0
    for segment in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[segment])
        fitting = has_room >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = rows_by_room[room].pop()
            if not rows_by_room[room]:
                has_room &= ~(1 << room)
        else:
            row, room, rows = rows, capacity, rows + 1
        row_of[segment] = row
        room -= size
        if room:
            rows_by_room[room].append(row)
            has_room |= 1 << room
    return row_of, rows
