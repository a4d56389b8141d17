"""Documents cut into pieces, paired, and packed into rows.

A piece is framed `[CLS] A [SEP]`, or `[CLS] A [SEP] B [SEP]` where sentences are paired. Cuts fall between words
wherever a word ends in time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.rng import hash_key, uniform

IS_NEXT, NOT_NEXT, UNPAIRED = 0, 1, 2  # the label of a pair; a piece without a second sentence is not scored
PAIR_SALT, ORDER_SALT = 5, 6

Places = NDArray[np.int64]


@dataclass(frozen=True)
class SegmentSpans:
    """Spans of the flat stream of a shard: where A and B begin and how long they are; B may be empty."""

    a_start: Places
    a_len: Places
    b_start: Places
    b_len: Places
    document: Places
    label: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.a_start)

    @property
    def length_with_specials(self) -> Places:
        """The length of each piece with its special ids."""
        return self.a_len + 2 + np.where(self.b_len > 0, self.b_len + 1, 0)


class WordBoundaries:
    """Where documents may be cut: before ids that begin a word."""

    def __init__(self, begins: NDArray[np.bool_]) -> None:
        size = len(begins)
        places = np.arange(size + 1)
        ends = np.append(begins, True)
        self.before = np.maximum.accumulate(np.where(ends, places, -1))  # the last cut at or before a place
        self.after = np.minimum.accumulate(np.where(ends, places, size)[::-1])[::-1]  # the first at or after it

    def cut(self, start: Places, stop: Places, longest: int) -> Places:
        """The end of a stretch from `start` on: the last cut that is near enough, or in the midst of a long word."""
        end = np.minimum(start + longest, stop)
        back = self.before[end]
        return np.where((end < stop) & (back > start), back, end)

    def middle(self, start: Places, stop: Places, longest: int) -> Places:
        """Where to cut the rest of a document in two, near its middle; `stop` if that cannot be."""
        half = np.minimum((stop - start + 1) // 2, longest)
        back, ahead = self.before[start + half], self.after[np.minimum(start + 1, stop)]
        return np.where(back > start, back, np.where(ahead <= np.minimum(start + longest, stop - 1), ahead, stop))


def split_into_segments(start: Places, stop: Places, cutter: WordBoundaries, longest: int) -> SegmentSpans:
    """Documents as pieces of one sentence each, of at most `longest` ids."""
    starts, stops, documents = [], [], []
    for at, document in iterate_cuts(start, stop):
        end = cutter.cut(at, stop[document], longest)
        starts.append(at.copy())
        stops.append(end)
        documents.append(document)
        at[:] = end
    return sort_spans(starts, stops, stops, documents)


def split_into_pairs(start: Places, stop: Places, cutter: WordBoundaries, first: int, second: int) -> SegmentSpans:
    """Documents as pieces of two sentences that follow each other, of at most `first` and `second` ids."""
    starts, middles, stops, documents = [], [], [], []
    for at, document in iterate_cuts(start, stop):
        last = stop[document]
        short = last - at <= first + second  # what is left of it is one piece
        middle = np.where(short, cutter.middle(at, last, first), cutter.cut(at, last, first))
        end = np.where(middle < last, cutter.cut(middle, last, second), last)
        starts.append(at.copy())
        middles.append(middle)
        stops.append(end)
        documents.append(document)
        at[:] = end
    return sort_spans(starts, middles, stops, documents)


def iterate_cuts(start: Places, stop: Places) -> Iterator[tuple[Places, Places]]:
    """How far each document is cut, for those that are not at their end; who is asked moves the places on."""
    document = np.flatnonzero(start < stop)
    at = start[document]
    while len(at):
        here = at.copy()
        yield here, document
        going_on = here < stop[document]
        at, document = here[going_on], document[going_on]


def sort_spans(
    starts: list[Places], middles: list[Places], stops: list[Places], documents: list[Places]
) -> SegmentSpans:
    """Pieces in the order of the stream."""
    empty = np.zeros(0, np.int64)
    start, middle, stop, document = (np.concatenate([empty, *each]) for each in (starts, middles, stops, documents))
    order = np.argsort(start, kind="stable")
    start, middle, stop, document = start[order], middle[order], stop[order], document[order]
    paired = middle < stop
    label = np.where(paired, IS_NEXT, UNPAIRED).astype(np.uint8)
    return SegmentSpans(start, middle - start, np.where(paired, middle, 0), stop - middle, document, label)


# ---------------------------------------------------------------------------------------------------- pairs


def sample_negatives(pieces: SegmentSpans, kind: str, seed: int, key: int, where: str) -> SegmentSpans:
    """Half of the pairs made wrong: by a second sentence of another document (nsp), or by their order (sop)."""
    pairs = np.flatnonzero(pieces.label == IS_NEXT)
    draws = uniform(seed, hash_key(PAIR_SALT, pairs.astype(np.uint64) + np.uint64(key << 40)), 1)[:, 0]
    wrong = np.sort(pairs[np.argsort(draws, kind="stable")[: len(pairs) // 2]])
    a_start, a_len, b_start, b_len = (
        each.copy() for each in (pieces.a_start, pieces.a_len, pieces.b_start, pieces.b_len)
    )
    label = pieces.label.copy()
    label[wrong] = NOT_NEXT
    if kind == "sop":
        a_start[wrong], b_start[wrong] = b_start[wrong], a_start[wrong]
        a_len[wrong], b_len[wrong] = b_len[wrong], a_len[wrong]
    else:
        giver = derangement(pieces.document[wrong], seed, key, where)
        b_start[wrong], b_len[wrong] = b_start[wrong[giver]], b_len[wrong[giver]]
    return SegmentSpans(a_start, a_len, b_start, b_len, pieces.document, label)


def derangement(document: Places, seed: int, key: int, where: str) -> Places:
    """A permutation that gives everyone something of another document.

    Documents stand in a drawn order, each with all it has; then everyone takes what stands as many places further on as
    the largest document has. That is another document's, unless one document has more than half of all.
    """
    if not len(document):
        return np.zeros(0, np.int64)
    names, inverse, sizes = np.unique(document, return_inverse=True, return_counts=True)
    largest = int(sizes.max())
    if 2 * largest > len(document):
        raise BertGPTError(
            "BG316",
            "one document has more than half of the pairs of a shard, so there is no other to pair them with",
            path=where,
            hint="make shards with a larger --shard-tokens or --val-fraction, or --sentence-pairs sop",
        )
    draws = uniform(seed, hash_key(ORDER_SALT, names.astype(np.uint64) + np.uint64(key << 40)), 1)[:, 0]
    line = np.argsort(draws[inverse], kind="stable")
    found = np.empty_like(line)
    found[line] = np.roll(line, -largest)
    return found


# ---------------------------------------------------------------------------------------------------- packing


def best_fit_decreasing(sizes: Places, length: int) -> tuple[Places, int]:
    """The row of each piece, and how many rows there are: the longest first, each where it fits best."""
    row_of = np.empty(len(sizes), np.int64)
    room: list[list[int]] = [[] for _ in range(length + 1)]  # rows by the room that is left in them
    open_ = 0  # bit r is set where a row has room r
    rows = 0
    for piece in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[piece])
        fitting = open_ >> size
        if fitting:
            left = size + (fitting & -fitting).bit_length() - 1
            row = room[left].pop()
            if not room[left]:
                open_ &= ~(1 << left)
        else:
            row, left, rows = rows, length, rows + 1
        row_of[piece] = row
        left -= size
        if left:
            room[left].append(row)
            open_ |= 1 << left
    return row_of, rows
