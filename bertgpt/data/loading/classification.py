"""Labeled texts as batches without padding: several texts are packed into a row, and each attends only to itself.

    padded to the longest           packed
    a a a a a a a a                 a a a a a a a a
    b b b . . . . .                 b b b c c c c .
    c c c c . . . .

Which texts are in a batch depends only on the shuffling, not on their lengths, so training is the same with
micro-batches of any size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertgpt.data.loading.rows import Array


@dataclass(frozen=True)
class EncodedExample:
    """A tokenized text or text pair, with its special tokens."""

    input_ids: list[int]
    sentence_b_start: int  # where the second text starts; the end if there is none


@dataclass(frozen=True)
class PackedBatch:
    """N texts packed into B rows of T tokens."""

    input_ids: Array  # (B, T)
    document_ids: Array  # (B, T): the number of the text, from 1; 0 for padding
    position_ids: Array  # (B, T): from the start of each text
    token_type_ids: Array  # (B, T): 1 in the second text of a pair
    row_index: Array  # (N,): the row of each text
    pool_index: Array  # (N,): the position it is pooled at: its first token, or its last for a causal model
    labels: Array  # (N,): integers for classification, floats for regression

    def model_inputs(self) -> dict[str, Array]:
        """The arguments of `SequenceClassifier.forward`: everything but the labels."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "labels"}


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> tuple[list[tuple[int, int]], int]:
    """Bin packing, longest first, into the first row with room: row and start of each text, and the number of rows."""
    placement = [(0, 0)] * len(lengths)
    used: list[int] = []  # tokens in each row
    for text in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[text]
        row = next((row for row, end in enumerate(used) if end + length <= capacity), len(used))
        if row == len(used):
            used.append(0)
        placement[text] = (row, used[row])
        used[row] += length
    return placement, len(used)


def pack_batch(examples: Sequence[EncodedExample], labels: NDArray[Any], causal: bool) -> PackedBatch:
    """Pack texts into rows as long as the longest of them."""
    lengths = [len(example.input_ids) for example in examples]
    seq_len = max(lengths)
    placement, num_rows = first_fit_decreasing(lengths, seq_len)
    input_ids, document_ids, position_ids, token_type_ids = (np.zeros((num_rows, seq_len), np.int32) for _ in range(4))
    for number, (example, (row, start)) in enumerate(zip(examples, placement, strict=True), 1):
        stop = start + len(example.input_ids)
        input_ids[row, start:stop], document_ids[row, start:stop] = example.input_ids, number
        position_ids[row, start:stop] = np.arange(stop - start)
        token_type_ids[row, start + example.sentence_b_start : stop] = 1
    row_index, starts = (np.array(column, np.int32) for column in zip(*placement, strict=True))
    pool_index = (starts + np.array(lengths, np.int32) - 1 if causal else starts).astype(np.int32)
    return PackedBatch(input_ids, document_ids, position_ids, token_type_ids, row_index, pool_index, labels)


@dataclass(frozen=True)
class ClassificationDataset:
    """Labeled texts."""

    examples: Sequence[EncodedExample]
    labels: NDArray[Any]
    causal: bool

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: NDArray[np.int64], epochs: NDArray[np.int64]) -> PackedBatch:
        """The texts of these indices, packed; they are the same in each epoch."""
        return pack_batch([self.examples[i] for i in indices.tolist()], self.labels[indices], self.causal)
