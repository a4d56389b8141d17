"""Masks, or whole rows, that are stored: one record batch for each epoch that was drawn, a row for each row."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bertgpt.data.format import column, list_of, required

Lists = tuple[NDArray[Any], NDArray[np.bool_]]  # values in rows of equal length, and which of them are in the lists


class EpochFile:
    """A file of copies, memory-mapped; epochs beyond the copies begin again with the first."""

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self.copies = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self.columns = [{name: Column(batch.column(name)) for name in batch.schema.names} for batch in self.copies]

    def __len__(self) -> int:
        return int(self.copies[0].num_rows)

    def row(self, i: int, epoch: int) -> dict[str, NDArray[Any]]:
        """A row as it is in an epoch."""
        columns = self.columns[epoch % len(self.columns)]
        return {name: column.values[column.starts[i] : column.starts[i + 1]] for name, column in columns.items()}


class Column:
    """The flat values of a column, and where each row begins in them."""

    def __init__(self, array: pa.Array) -> None:
        kind = array.type
        if pa.types.is_large_list(kind):
            values, self.starts = array.values, np.frombuffer(array.buffers()[1], np.int64, len(array) + 1)
        else:
            size = kind.list_size if pa.types.is_fixed_size_list(kind) else 1
            values = array.values if size > 1 else array
            self.starts = np.arange(len(array) + 1) * size
        dtype = np.dtype(values.type.to_pandas_dtype())
        self.values = np.frombuffer(values.buffers()[1] or b"", dtype, len(values))


def masks_schema(dtype: np.dtype[Any]) -> pa.Schema:
    """What is hidden in each row, and what stands there instead."""
    return pa.schema([required("positions", list_of(np.dtype(np.uint16))), required("replacements", list_of(dtype))])


def rows_schema(dtype: np.dtype[Any], length: int) -> pa.Schema:
    """All that a model needs."""
    ids = pa.list_(pa.field("item", pa.from_numpy_dtype(dtype), nullable=False), length)
    kinds = {
        "input_ids": ids,
        "length": pa.uint16(),
        "piece_starts": list_of(np.dtype(np.uint16)),
        "second_starts": list_of(np.dtype(np.uint16)),
        "masked_positions": list_of(np.dtype(np.uint16)),
        "masked_labels": list_of(dtype),
        "next_sentence": list_of(np.dtype(np.uint8)),
    }
    return pa.schema([required(name, kind) for name, kind in kinds.items()])


def write_epochs(path: Path, schema: pa.Schema, copies: Iterable[Iterable[Mapping[str, Any]]]) -> None:
    """A file of copies, each given as the columns of some rows after the other: arrays, or arrays with what counts."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for copy in copies:
            blocks = [[array_of(block[field.name], field.type) for field in schema] for block in copy]
            columns = [pa.concat_arrays(each) for each in zip(*blocks, strict=True)]
            empty = [pa.array([], field.type) for field in schema]
            writer.write_batch(pa.RecordBatch.from_arrays(columns or empty, schema=schema))


def array_of(values: NDArray[Any] | Lists, kind: pa.DataType) -> pa.Array:
    """A column of some rows."""
    if isinstance(values, tuple):
        rows, used = values
        starts = np.concatenate([np.zeros(1, np.int64), used.sum(axis=1).cumsum()])
        return pa.LargeListArray.from_arrays(column(starts), column(rows[used]), type=kind)
    if values.ndim == 1:
        return column(values)
    flat = column(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)
