"""Worker that writes shards: takes rows from the tokenized files and shuffles them."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bertgpt.data.build.files import token_metadata
from bertgpt.data.execution.tasks import Metadata
from bertgpt.data.format import DOCUMENT, TokenFile, bit_array, column, list_array, shard_schema, write_batch


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard in canonical order, and the keys that they are sorted by."""

    document: NDArray[np.int64]  # its index
    fragment: NDArray[np.int32]  # which fragment of it: 0 unless it is longer than a shard
    keys: NDArray[np.uint64]
    tokens: int  # of all rows, about

    @property
    def order(self) -> NDArray[np.int64]:
        """The shuffled order."""
        order = np.argsort(self.keys)
        ordered = self.keys[order]
        if (ordered[1:] == ordered[:-1]).any():  # duplicates of --no-dedup: a stable sort, which is slower
            return np.argsort(self.keys, kind="stable")
        return order


def fragments_per_document(tokens: NDArray[np.int64], max_tokens: int) -> NDArray[np.int64]:
    """The number of rows of each document: several if it is longer than a shard, with its end id."""
    return -(-(tokens + 1) // max_tokens)


def ranges_within(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 1 2 for a count of 3, and so on: the fragment numbers of all documents, concatenated."""
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)


class TokenizedReader:
    """A tokenized file whose rows are taken by document and fragment."""

    def __init__(self, file: TokenFile, max_tokens: int) -> None:
        self.file = file
        self.fragments = fragments_per_document(np.diff(file.offsets), max_tokens)
        start = np.repeat(file.offsets[:-1], self.fragments) + ranges_within(self.fragments) * max_tokens
        self.first = np.cumsum(self.fragments) - self.fragments  # the row of each document's first fragment
        offsets = np.append(start, file.offsets[-1]) * file.flat.itemsize
        # The ids as byte strings: Arrow's take is fastest with those.
        self.rows = pa.Array.from_buffers(
            pa.large_binary(), len(start), [None, pa.py_buffer(offsets), pa.py_buffer(file.flat)]
        )

    def take(self, document: NDArray[np.int64], fragment: NDArray[np.int32]) -> pa.RecordBatch:
        """Rows of a shard, their ids still as bytes."""
        columns = [
            self.rows.take(column(self.first[document] + fragment)),
            column(self.file.documents[document], DOCUMENT),
        ]
        return pa.RecordBatch.from_arrays(columns, ["tokens", "doc_id"])

    def text_bytes(self, document: NDArray[np.int64], fragment: NDArray[np.int32]) -> int:
        """The bytes of text of these rows; a document counts with its first fragment."""
        return int(self.file.n_bytes[document[fragment == 0]].sum(dtype=np.int64))

    def are_last(self, document: NDArray[np.int64], fragment: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which of these rows are the last of their document."""
        return np.equal(self.fragments[document], fragment + 1)


class ShardWriter:
    """Worker that writes shards."""

    def __init__(self, paths: list[str], max_tokens: int, eos_id: int, max_id: int) -> None:
        self.files = [TokenizedReader(TokenFile(Path(path)), max_tokens) for path in paths]
        self.first = np.cumsum([0, *(len(each.file) for each in self.files)])  # document of each file, and the end
        self.eos_id, self.max_id = eos_id, max_id

    def run(self, payload: ShardRows, path: Path) -> Metadata:
        """Write a shard: take the rows from file after file, then put them in the shuffled order."""
        bounds = np.searchsorted(payload.document, self.first).tolist()
        selected = [
            (file, payload.document[start:stop] - first, payload.fragment[start:stop])
            for file, first, (start, stop) in zip(self.files, self.first.tolist(), pairwise(bounds), strict=False)
        ]
        order = payload.order
        rows = pa.concat_batches([file.take(*chosen) for file, *chosen in selected]).take(column(order))
        last = np.concatenate([file.are_last(*chosen) for file, *chosen in selected])[order]
        flat, offsets = self.append_end_ids(rows["tokens"], last)
        if len(flat) and int(flat.max()) > self.max_id:
            for each in self.files:
                each.file.check_ids(self.max_id)
        continued = payload.fragment[order] > 0
        columns = [list_array(flat, offsets), rows["doc_id"], bit_array(continued)]
        write_batch(path, pa.RecordBatch.from_arrays(columns, schema=shard_schema(flat.dtype)))
        text_bytes = sum(file.text_bytes(*chosen) for file, *chosen in selected)
        return token_metadata(flat, int((~continued).sum()), text_bytes)

    def append_end_ids(self, rows: pa.Array, last: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Ids as numbers, with the end id after each row that is the last of its document; and their offsets."""
        dtype = self.files[0].file.flat.dtype
        offsets = np.frombuffer(rows.buffers()[1], np.int64, len(rows) + 1) // dtype.itemsize
        flat = np.insert(np.frombuffer(rows.buffers()[2] or b"", dtype), offsets[1:][last], self.eos_id)
        return flat, offsets + np.concatenate([np.zeros(1, np.int64), last.cumsum()])
