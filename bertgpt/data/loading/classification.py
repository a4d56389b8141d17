"""Texts with labels as rows without padding: several texts stand in a row, each sees itself only.

    padded to the longest           packed
    a a a a a a a a                 a a a a a a a a
    b b b . . . . .                 b b b c c c c .
    c c c c . . . .

Which texts are in a batch is decided by the order of training alone, not by their lengths, so a model that is trained
with them learns the same from micro-batches of any size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = Sequence[int]


@dataclass(frozen=True)
class EncodedExample:
    """A text as a model reads it."""

    ids: list[int]
    second_start: int  # where its second sentence begins; its end, if there is none


@dataclass(frozen=True)
class PackedBatch:
    """Some texts in rows; arrays, then tensors."""

    ids: Any  # (B, T)
    documents: Any  # (B, T): which text of the row; what fills up is one of its own
    positions: Any  # (B, T): counted from the beginning of each text
    segments: Any  # (B, T)
    rows: Any  # (N,): where each text is read out: its row,
    places: Any  # (N,): and its first id, or its last
    labels: Any  # (N,): classes, or numbers


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> tuple[list[tuple[int, int]], int]:
    """The row and the place of each text, the longest first, each in the first row that has room; how many rows."""
    found = [(0, 0)] * len(lengths)
    used: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[number]
        row = next((row for row, end in enumerate(used) if end + length <= capacity), len(used))
        if row == len(used):
            used.append(0)
        found[number] = (row, used[row])
        used[row] += length
    return found, len(used)


def pack_batch(texts: Sequence[EncodedExample], labels: NDArray[Any], causal: bool) -> PackedBatch:
    """Rows as long as the longest text."""
    lengths = [len(text.ids) for text in texts]
    longest = max(lengths)
    where, count = first_fit_decreasing(lengths, longest)
    ids, documents, positions, segments = (np.zeros((count, longest), np.int32) for _ in range(4))
    for number, (text, (row, start)) in enumerate(zip(texts, where, strict=True), 1):
        inside = slice(start, start + len(text.ids))
        ids[row, inside], documents[row, inside] = text.ids, number
        positions[row, inside] = np.arange(len(text.ids))
        segments[row, start + text.second_start : start + len(text.ids)] = 1
    rows, starts = (np.array(column, np.int32) for column in zip(*where, strict=True))
    places = starts + np.array(lengths, np.int32) - 1 if causal else starts
    return PackedBatch(ids, documents, positions, segments, rows, places.astype(np.int32), labels)


@dataclass(frozen=True)
class ClassificationDataset:
    """Labelled texts that are trained on, by number."""

    texts: Sequence[EncodedExample]
    labels: NDArray[Any]
    causal: bool

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, samples: NDArray[np.int64], epochs: NDArray[np.int64]) -> PackedBatch:
        """Some of them."""
        return pack_batch([self.texts[i] for i in samples.tolist()], self.labels[samples], self.causal)
