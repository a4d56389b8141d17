"""Static masks on disk: an Arrow file for each shard, one record batch per epoch, one record per row."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bertgpt.data.format import check_schema, list_array, list_of, numbers, open_batches, required
from bertgpt.data.loading.masking import MaskBatch


def masks_schema(dtype: np.dtype[Any]) -> pa.Schema:
    """The masked positions of each row, and the ids that replace the original ones."""
    return pa.schema([required("positions", list_of(np.dtype(np.uint16))), required("replacements", list_of(dtype))])


def write_masks(path: Path, dtype: np.dtype[Any], epochs: Iterable[Iterable[MaskBatch]]) -> None:
    """Write the masks of all rows for each epoch; the rows of an epoch come in blocks."""
    schema = masks_schema(dtype)
    empty = pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for masks in epochs:
            blocks = [pa.RecordBatch.from_arrays(list_arrays(block), schema=schema) for block in masks]
            writer.write_batch(pa.concat_batches(blocks) if blocks else empty)


def list_arrays(masks: MaskBatch) -> list[pa.Array]:
    """The columns of a block: lists without the padding of `masks`."""
    offsets = np.concatenate([np.zeros(1, np.int64), masks.valid.sum(axis=1).cumsum()])
    return [list_array(values[masks.valid], offsets) for values in (masks.positions, masks.replacements)]


class MaskFile:
    """Memory-mapped static masks of one shard. After the last stored epoch the first one is used again."""

    def __init__(self, path: Path) -> None:
        batches = open_batches(path, "make the mask plan again: bertgpt mask ... --overwrite")
        check_schema(path, batches[0].schema, *(masks_schema(np.dtype(dtype)) for dtype in (np.uint16, np.uint32)))
        self.epochs = [(numbers(pos.offsets), numbers(pos.values), numbers(new.values)) for pos, new in batches]

    def row(self, row: int, epoch: int) -> tuple[NDArray[np.uint16], NDArray[Any]]:
        """The masked positions of a row in an epoch, and the ids that replace the original ones."""
        offsets, positions, replacements = self.epochs[epoch % len(self.epochs)]
        inside = slice(offsets[row], offsets[row + 1])
        return positions[inside], replacements[inside]
