"""Static masks on disk: an Arrow file for each shard, one record batch per epoch, one record per row."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bertgpt.data.format import column, list_of, required
from bertgpt.data.loading.masking import MaskBatch


def masks_schema(dtype: np.dtype[Any]) -> pa.Schema:
    """The masked positions of each row, and the ids that replace the original ones."""
    return pa.schema([required("positions", list_of(np.dtype(np.uint16))), required("replacements", list_of(dtype))])


def write_masks(path: Path, dtype: np.dtype[Any], epochs: Iterable[Iterable[MaskBatch]]) -> None:
    """Write the masks of all rows for each epoch; the rows of an epoch come in blocks."""
    schema = masks_schema(dtype)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for masks in epochs:
            blocks = [list(list_arrays(block, schema)) for block in masks]
            columns = [pa.concat_arrays(arrays) for arrays in zip(*blocks, strict=True)]
            empty = [pa.array([], field.type) for field in schema]
            writer.write_batch(pa.RecordBatch.from_arrays(columns or empty, schema=schema))


def list_arrays(masks: MaskBatch, schema: pa.Schema) -> Iterator[pa.Array]:
    """The columns of a block: lists without the padding of `masks`."""
    offsets = np.concatenate([np.zeros(1, np.int64), masks.valid.sum(axis=1).cumsum()])
    for values, field in zip((masks.positions, masks.replacements), schema, strict=True):
        yield pa.LargeListArray.from_arrays(column(offsets), column(values[masks.valid]), type=field.type)


class MaskFile:
    """Memory-mapped static masks of one shard. After the last stored epoch the first one is used again."""

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self.batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self.epochs = [(flat_lists(batch["positions"]), flat_lists(batch["replacements"])) for batch in self.batches]

    def row(self, row: int, epoch: int) -> tuple[NDArray[np.uint16], NDArray[Any]]:
        """The masked positions of a row in an epoch, and the ids that replace the original ones."""
        (positions, offsets), (replacements, _) = self.epochs[epoch % len(self.epochs)]
        inside = slice(offsets[row], offsets[row + 1])
        return positions[inside], replacements[inside]


def flat_lists(lists: pa.LargeListArray) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The values of a list column as one flat array, and the offset of each row in it."""
    dtype = np.dtype(lists.type.value_type.to_pandas_dtype())
    values = np.frombuffer(lists.values.buffers()[1] or b"", dtype, len(lists.values))
    return values, np.frombuffer(lists.buffers()[1], np.int64, len(lists) + 1)
