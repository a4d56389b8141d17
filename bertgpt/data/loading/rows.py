"""Rows of a mask plan made into ids: pieces framed by special ids, side by side, the rest padding."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bertgpt.data.format import column, list_of, required, write_batch
from bertgpt.data.loading.segments import SegmentSpans
from bertgpt.data.tokenizers.tokenizer import Tokenizer

Array = Any  # of numpy here, and a tensor once it is on its way to the device
SPANS: dict[str, Any] = {
    "a_start": np.uint64, "a_len": np.uint16, "b_start": np.uint64, "b_len": np.uint16, "next_sentence": np.uint8,
}  # fmt: skip


@dataclass(frozen=True)
class SpecialIds:
    """The ids that frame pieces."""

    pad: int
    cls: int
    sep: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "SpecialIds":
        """Those of a tokenizer."""
        return cls(*(tokenizer.roles[role] for role in ("pad", "cls", "sep")))


@dataclass(frozen=True)
class RowBatch:
    """Some rows. A slot for a piece that a row does not have begins at its end, L."""

    ids: NDArray[Any]  # (rows, L)
    text: NDArray[np.bool_]  # (rows, L): neither special nor padding
    begins: NDArray[np.bool_]  # (rows, L): the first id of a sentence
    length: NDArray[np.uint16]  # (rows,): without padding
    piece_starts: NDArray[np.uint16]  # (rows, P): where [CLS] is
    second_starts: NDArray[np.uint16]  # (rows, P): where B begins; the piece's end where it has none
    next_sentence: NDArray[np.uint8]  # (rows, P): 0 next, 1 not next, 2 not scored


def spans_schema() -> pa.Schema:
    """One row for each training row: where the sentences of its pieces are in the flat stream of the base shard."""
    return pa.schema([required(name, list_of(np.dtype(kind))) for name, kind in SPANS.items()])


def write_spans(path: Path, pieces: SegmentSpans, row_of: NDArray[np.int64], rows: int) -> None:
    """The pieces of each row, in the order of the stream."""
    order = np.argsort(row_of, kind="stable")
    offsets = np.concatenate([np.zeros(1, np.int64), np.bincount(row_of, minlength=rows).cumsum()])
    flat = (pieces.a_start, pieces.a_len, pieces.b_start, pieces.b_len, pieces.label)
    columns = [
        pa.LargeListArray.from_arrays(column(offsets), column(np.asarray(values)[order].astype(kind)), type=field.type)
        for values, kind, field in zip(flat, SPANS.values(), spans_schema(), strict=True)
    ]
    write_batch(path, pa.RecordBatch.from_arrays(columns, schema=spans_schema()))


class SpanFile:
    """The spans of one shard, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where the pieces of each row begin, and where the last ones end."""
        return np.frombuffer(self.batch.column(0).buffers()[1], np.int64, len(self) + 1)

    @cached_property
    def values(self) -> dict[str, NDArray[Any]]:
        """The flat columns."""
        found = {}
        for name, kind in SPANS.items():
            values = self.batch.column(name).values
            found[name] = np.frombuffer(values.buffers()[1] or b"", kind, len(values))
        return found

    @property
    def most_pieces(self) -> int:
        """Of any row."""
        return int(np.diff(self.offsets).max(initial=0))


class RowBuilder:
    """Makes rows of one length."""

    def __init__(self, length: int, pieces: int, specials: SpecialIds, dtype: np.dtype[Any]) -> None:
        self.length, self.pieces, self.specials, self.dtype = length, pieces, specials, dtype

    def frames(self, rows: list[tuple[SpanFile, NDArray[Any], int]]) -> RowBatch:
        """Rows, each given by its spans, the flat stream that they point into, and its number."""
        shape = (len(rows), self.length)
        made = RowBatch(
            ids=np.full(shape, self.specials.pad, self.dtype),
            text=np.zeros(shape, np.bool_),
            begins=np.zeros(shape, np.bool_),
            length=np.zeros(len(rows), np.uint16),
            piece_starts=np.full((len(rows), self.pieces), self.length, np.uint16),
            second_starts=np.full((len(rows), self.pieces), self.length, np.uint16),
            next_sentence=np.full((len(rows), self.pieces), 2, np.uint8),
        )
        for i, (spans, flat, row) in enumerate(rows):
            self.fill(made, i, spans, flat, row)
        return made

    def fill(self, made: RowBatch, i: int, spans: SpanFile, flat: NDArray[Any], row: int) -> None:
        """One row: [CLS] A [SEP] or [CLS] A [SEP] B [SEP], piece after piece."""
        first, last = int(spans.offsets[row]), int(spans.offsets[row + 1])
        columns = [spans.values[name][first:last].tolist() for name in SPANS]
        ids, text, begins = made.ids[i], made.text[i], made.begins[i]
        at = 0
        for piece, (a_start, a_len, b_start, b_len, label) in enumerate(zip(*columns, strict=True)):
            made.piece_starts[i, piece] = at
            made.next_sentence[i, piece] = label
            ids[at] = self.specials.cls
            at += 1
            for start, size in ((a_start, a_len), (b_start, b_len)) if b_len else ((a_start, a_len),):
                made.second_starts[i, piece] = at
                ids[at : at + size] = flat[start : start + size]
                text[at : at + size] = True
                begins[at] = True
                at += size
                ids[at] = self.specials.sep
                at += 1
            if not b_len:
                made.second_starts[i, piece] = at
        made.length[i] = at
