"""Rows of a mask plan: segments with their special tokens, packed side by side, and padding.

[CLS] A [SEP]   [CLS] A [SEP] B [SEP]   [PAD] [PAD]
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bertgpt.data.format import check_schema, list_array, list_of, numbers, open_batches, required, write_batch
from bertgpt.data.loading.segments import UNPAIRED, SegmentSpans
from bertgpt.data.tokenizers.tokenizer import Tokenizer

Array = Any  # of NumPy in the loader, a torch.Tensor after `to_tensors`
SPANS: dict[str, Any] = {
    "a_start": np.uint64, "a_len": np.uint16, "b_start": np.uint64, "b_len": np.uint16, "next_sentence": np.uint8,
}  # fmt: skip


@dataclass(frozen=True)
class RowBatch:
    """Unmasked rows of L tokens, each of up to P segments."""

    input_ids: NDArray[Any]  # (B, L)
    maskable: NDArray[np.bool_]  # (B, L): neither special token nor padding
    starts_sentence: NDArray[np.bool_]  # (B, L): first token of a sentence
    lengths: NDArray[np.uint16]  # (B,): without padding
    segment_starts: NDArray[np.uint16]  # (B, P): position of [CLS]; L for segments that the row does not have
    sentence_b_starts: NDArray[np.uint16]  # (B, P): where sentence B starts; the end of the segment if it has none
    next_sentence_labels: NDArray[np.uint8]  # (B, P): 0 next, 1 not next, 2 unpaired


def spans_schema() -> pa.Schema:
    """One record for each row: where the sentences of its segments are in the token stream of the base shard."""
    return pa.schema([required(name, list_of(np.dtype(dtype))) for name, dtype in SPANS.items()])


def write_spans(path: Path, segments: SegmentSpans, row_of: NDArray[np.int64], num_rows: int) -> None:
    """Write the segments of each row, in the order of the token stream."""
    order = np.argsort(row_of, kind="stable")
    offsets = np.concatenate([np.zeros(1, np.int64), np.bincount(row_of, minlength=num_rows).cumsum()])
    flat = (segments.a_start, segments.a_len, segments.b_start, segments.b_len, segments.label)
    columns = [
        list_array(np.asarray(values)[order].astype(dtype), offsets)
        for values, dtype in zip(flat, SPANS.values(), strict=True)
    ]
    write_batch(path, pa.RecordBatch.from_arrays(columns, schema=spans_schema()))


class SpanFile:
    """The memory-mapped spans of the rows of one shard."""

    def __init__(self, path: Path) -> None:
        [self.batch, *_] = open_batches(path, "make the mask plan again: bertgpt mask ... --overwrite")
        check_schema(path, self.batch.schema, spans_schema())

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where the segments of each row begin in the flat columns, and where the last ones end."""
        return numbers(self.batch.column(0).offsets)

    @cached_property
    def values(self) -> dict[str, NDArray[Any]]:
        """The flat columns."""
        return {name: numbers(self.batch.column(name).values) for name in SPANS}

    @property
    def max_segments(self) -> int:
        """The most segments of a row."""
        return int(np.diff(self.offsets).max(initial=0))


class RowBuilder:
    """Builds rows of `seq_len` tokens from spans."""

    def __init__(self, seq_len: int, max_segments: int, tokenizer: Tokenizer) -> None:
        self.seq_len, self.max_segments, self.dtype = seq_len, max_segments, tokenizer.dtype
        self.pad_id, self.cls_id, self.sep_id = (tokenizer.roles[role] for role in ("pad", "cls", "sep"))

    def build(self, rows: list[tuple[SpanFile, NDArray[Any], int]]) -> RowBatch:
        """Build rows, each given by the spans and the token stream of its shard, and its index there."""
        by_token, by_segment = (len(rows), self.seq_len), (len(rows), self.max_segments)
        batch = RowBatch(
            input_ids=np.full(by_token, self.pad_id, self.dtype),
            maskable=np.zeros(by_token, np.bool_),
            starts_sentence=np.zeros(by_token, np.bool_),
            lengths=np.zeros(len(rows), np.uint16),
            segment_starts=np.full(by_segment, self.seq_len, np.uint16),
            sentence_b_starts=np.full(by_segment, self.seq_len, np.uint16),
            next_sentence_labels=np.full(by_segment, UNPAIRED, np.uint8),
        )
        for i, (spans, tokens, row) in enumerate(rows):
            self.fill_row(batch, i, spans, tokens, row)
        return batch

    def fill_row(self, batch: RowBatch, i: int, spans: SpanFile, tokens: NDArray[Any], row: int) -> None:
        """Fill row i of the batch, segment by segment."""
        first, last = int(spans.offsets[row]), int(spans.offsets[row + 1])
        if not first <= last <= first + self.max_segments:
            raise ValueError(f"row {row} has {last - first:,} segments, at most {self.max_segments:,} fit")
        columns = [spans.values[name][first:last].tolist() for name in SPANS]
        input_ids, maskable, starts_sentence = batch.input_ids[i], batch.maskable[i], batch.starts_sentence[i]
        end = 0
        for segment, (a_start, a_len, b_start, b_len, label) in enumerate(zip(*columns, strict=True)):
            batch.segment_starts[i, segment] = end
            batch.next_sentence_labels[i, segment] = label
            input_ids[end] = self.cls_id
            end += 1
            for start, size in ((a_start, a_len), (b_start, b_len)) if b_len else ((a_start, a_len),):
                batch.sentence_b_starts[i, segment] = end
                input_ids[end : end + size] = tokens[start : start + size]
                maskable[end : end + size] = True
                starts_sentence[end] = True
                end += size
                input_ids[end] = self.sep_id
                end += 1
            if not b_len:
                batch.sentence_b_starts[i, segment] = end
        batch.lengths[i] = end
