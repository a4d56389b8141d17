"""Token parts to shards: duplicates out, documents dealt to splits and files by hash, shuffled within each file.

Where a document goes depends on its own hash and the seed, and on nothing that is beside it: not on workers, the order
of files, or what else is in the corpus. So duplicates stay on one side of a split, and new data moves no old document.
Splits that a corpus has by itself are kept, and none of the same name is made of it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bertgpt.utils.rng import hash_key, splitmix64
from bertgpt.data.format import DOCUMENT, TokenFile, bit_array, column, list_array, shard_schema, write_batch
from bertgpt.data.execution.tasks import Facts, Task

SPLITS = ("train", "val", "test")
SPLIT_SALT, ORDER_SALT = 1, 2  # the same seed serves both, for different purposes
BLOCK = 8192  # documents: so few that the cache holds all that is computed of them


@dataclass(frozen=True)
class DocumentIndex:
    """All documents of the parts, in canonical order."""

    ids: NDArray[np.uint8]  # (documents, 16)
    tokens: NDArray[np.int64]  # of each, without the end id
    source_split: NDArray[np.int8]  # the split that it comes from, by its place in SPLITS
    made: dict[str, NDArray[np.bool_]]  # whether this split is made by hash where it comes from

    @classmethod
    def of(cls, parts: Sequence[Path], facts: Sequence[Facts]) -> "DocumentIndex":
        """Look into the indices of the parts; no token is read."""
        files = [TokenFile(path) for path in parts]
        sizes = [len(file) for file in files]

        def each(values: Iterable[Any], kind: Any) -> NDArray[Any]:
            return np.repeat(np.array(list(values), kind), sizes)

        return cls(
            np.concatenate([file.documents for file in files]),
            np.concatenate([np.diff(file.offsets) for file in files]),
            each((SPLITS.index(some.get("split", "train")) for some in facts), np.int8),
            {split: each((split not in some.get("splits", ()) for some in facts), np.bool_) for split in SPLITS},
        )

    def halves(self, some: slice | NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The ids of some documents as two numbers each."""
        words = self.ids[some].view("<u8")
        return words[:, 0], words[:, 1]

    def dedup_mask(self) -> NDArray[np.bool_]:
        """Which documents are no exact duplicates of one before."""
        first = np.ones(len(self.ids), np.bool_)
        low, _ = self.halves(slice(None))
        in_order = np.sort(low)
        twice = in_order[1:][in_order[1:] == in_order[:-1]]
        if len(twice):
            some = np.flatnonzero(np.isin(low, twice))  # few: there can be no duplicates elsewhere
            held_out = self.source_split[some] == 0  # a copy in an official test split is not trained on
            some = some[np.lexsort((some, held_out, *self.halves(some)))]
            low, high = self.halves(some)
            again = (low[1:] == low[:-1]) & (high[1:] == high[:-1])
            first[some[1:][again]] = False
        return first

    def assign_splits(self, seed: int, fractions: dict[str, float]) -> tuple[NDArray[np.int8], NDArray[np.uint64]]:
        """The split and the sorting key of each."""
        split_of, keys = self.source_split.copy(), np.empty(len(self.ids), np.uint64)
        for start in range(0, len(keys), BLOCK):
            some = slice(start, start + BLOCK)
            low, high = self.halves(some)
            mine = hash_key(seed, low)
            keys[some] = splitmix64(mine ^ splitmix64(high + np.uint64(ORDER_SALT)))
            draw = (splitmix64(mine + np.uint64(SPLIT_SALT)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
            bound = 0.0
            for split, fraction in fractions.items():
                drawn = (draw >= bound) & (draw < bound + fraction)
                split_of[some][drawn & self.made[split][some] & (self.source_split[some] == 0)] = SPLITS.index(split)
                bound += fraction
        return split_of, keys


@dataclass(frozen=True)
class ShardRows:
    """What goes into a shard, in canonical order, and the keys to sort it by."""

    document: NDArray[np.int64]  # its number
    piece: NDArray[np.int32]  # which piece of it: 0 unless it is longer than a shard
    keys: NDArray[np.uint64]
    tokens: int  # of all rows, about

    @property
    def order(self) -> NDArray[np.int64]:
        """The shuffle."""
        order = np.argsort(self.keys)
        in_order = self.keys[order]
        if (in_order[1:] == in_order[:-1]).any():  # duplicates that were kept: in canonical order, sorted more slowly
            return np.argsort(self.keys, kind="stable")
        return order


@dataclass(frozen=True)
class ShardPlan:
    """Which rows go into which shard."""

    shards: dict[str, ShardRows]
    duplicates: int
    cut: int  # documents longer than a shard


def make_plan(documents: DocumentIndex, seed: int, shard_tokens: int, fractions: dict[str, float], dedup: bool) -> ShardPlan:
    """Deal the documents to splits and files."""
    kept = documents.dedup_mask() if dedup else np.ones(len(documents.ids), np.bool_)
    split_of, keys = documents.assign_splits(seed, fractions)
    shards: dict[str, ShardRows] = {}
    for split in ("val", "test", "train"):
        inside = split_of == SPLITS.index(split)
        chosen = np.flatnonzero(inside & kept)
        if split == "train" or len(chosen):
            total = int(documents.tokens.sum(where=inside) + inside.sum())  # with end ids and duplicates
            count = max(1, -(-total // shard_tokens))
            for i, rows in enumerate(assign_files(chosen, documents.tokens[chosen], keys[chosen], shard_tokens, count)):
                shards[f"{split}-{i:05}.arrow"] = rows
    return ShardPlan(shards, int((~kept).sum()), int((kept & (documents.tokens >= shard_tokens)).sum()))


def fragments_per_document(tokens: NDArray[np.int64], longest: int) -> NDArray[np.int64]:
    """Into how many rows each document goes: one, or several where it is longer than a shard with its end id."""
    return -(-(tokens + 1) // longest)


def ranges_within(many: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 1 2 for 3: the numbers of the pieces of each document, one after the other."""
    return np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)


def assign_files(
    document: NDArray[np.int64], tokens: NDArray[np.int64], keys: NDArray[np.uint64], longest: int, count: int
) -> Iterator[ShardRows]:
    """The rows of each of `count` files."""
    piece = np.zeros(len(document), np.int32)
    if (tokens >= longest).any():  # rare
        many = fragments_per_document(tokens, longest)
        document, keys, piece = np.repeat(document, many), np.repeat(keys, many), ranges_within(many).astype(np.int32)
        keys = np.where(piece == 0, keys, splitmix64(keys + piece.astype(np.uint64)))  # a piece goes its own way
    home = np.empty(len(keys), np.min_scalar_type(count))
    np.remainder(keys, np.uint64(count), out=home, casting="unsafe")
    by_home = np.argsort(home, kind="stable")
    ends = np.bincount(home, minlength=count).cumsum().tolist()
    for start, stop in pairwise([0, *ends]):
        mine = by_home[start:stop]
        yield ShardRows(document[mine], piece[mine], keys[mine], int(tokens.sum()) // count)


def shard_tasks(plan: ShardPlan, identity: Facts) -> list[Task]:
    """One task for each shard."""
    return [Task(name, identity | {"file": name}, 2 * rows.tokens, rows) for name, rows in plan.shards.items()]


class PartReader:
    """A token part whose rows are taken by the number of the document and the piece."""

    def __init__(self, file: TokenFile, longest: int) -> None:
        self.file = file
        self.many = fragments_per_document(np.diff(file.offsets), longest)
        start = np.repeat(file.offsets[:-1], self.many) + ranges_within(self.many) * longest
        self.first = np.cumsum(self.many) - self.many  # the entry of each document's first piece
        offsets = np.append(start, file.offsets[-1]) * file.flat.itemsize
        # The ids as strings of bytes: those are what Arrow takes fastest.
        self.rows = pa.Array.from_buffers(
            pa.large_binary(), len(start), [None, pa.py_buffer(offsets), pa.py_buffer(file.flat)]
        )

    def take(self, document: NDArray[np.int64], piece: NDArray[np.int32]) -> pa.RecordBatch:
        """Rows of a shard, their ids still as bytes."""
        columns = [
            self.rows.take(column(self.first[document] + piece)),
            column(self.file.documents[document], DOCUMENT),
        ]
        return pa.RecordBatch.from_arrays(columns, ["tokens", "document"])

    def text_bytes(self, document: NDArray[np.int64], piece: NDArray[np.int32]) -> int:
        """The bytes of text of these rows; a document counts where it begins."""
        return int(self.file.n_bytes[document[piece == 0]].sum(dtype=np.int64))

    def are_last(self, document: NDArray[np.int64], piece: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which of these rows are the last of their document."""
        return np.equal(self.many[document], piece + 1)


class ShardWriter:
    """The worker of the second stage."""

    def __init__(self, parts: list[str], longest: int, end: int, max_id: int) -> None:
        self.parts = [PartReader(TokenFile(Path(part)), longest) for part in parts]
        self.first = np.cumsum(
            [0, *(len(part.file) for part in self.parts)]
        )  # document of each part, and past the last
        self.end, self.max_id = end, max_id

    def run(self, work: ShardRows, path: Path) -> Facts:
        """Write a shard: from each part in its order, then all in theirs."""
        bounds = np.searchsorted(work.document, self.first).tolist()
        mine = [
            (part, work.document[start:stop] - first, work.piece[start:stop])
            for part, first, (start, stop) in zip(self.parts, self.first.tolist(), pairwise(bounds), strict=False)
        ]
        order = work.order
        rows = pa.concat_batches([part.take(*some) for part, *some in mine]).take(column(order))
        last = np.concatenate([part.are_last(*some) for part, *some in mine])[order]
        flat, offsets = self.with_ends(rows["tokens"], last)
        if len(flat) and int(flat.max()) > self.max_id:
            for part in self.parts:
                part.file.check_ids(self.max_id)
        continued = work.piece[order] > 0
        columns = [list_array(flat, offsets), rows["document"], bit_array(continued)]
        write_batch(path, pa.RecordBatch.from_arrays(columns, schema=shard_schema(flat.dtype)))
        return {
            "documents": int((~continued).sum()),
            "tokens": len(flat),
            "bytes": sum(part.text_bytes(*some) for part, *some in mine),
            "min_id": int(flat.min()) if len(flat) else None,
            "max_id": int(flat.max()) if len(flat) else None,
        }

    def with_ends(self, rows: pa.Array, last: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Ids as numbers, with the end id after each row that is the last of its document."""
        dtype = self.parts[0].file.flat.dtype
        offsets = np.frombuffer(rows.buffers()[1], np.int64, len(rows) + 1) // dtype.itemsize
        flat = np.insert(np.frombuffer(rows.buffers()[2] or b"", dtype), offsets[1:][last], self.end)
        return flat, offsets + np.concatenate([np.zeros(1, np.int64), last.cumsum()])
