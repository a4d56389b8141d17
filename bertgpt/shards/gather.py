"""Token parts to shards: duplicates out, documents dealt to splits and files by hash, shuffled within each file.

Where a document goes depends on its own hash and the seed, and on nothing that is beside it: not on workers, the order
of files, or what else is in the corpus. So duplicates stay on one side of a split, and new data moves no old document.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bertgpt.draws import fold, mix
from bertgpt.shards.format import DOCUMENT, TokenFile, bit_array, column, list_array, shard_schema, write_batch
from bertgpt.shards.jobs import Facts, Task

SPLIT_SALT, ORDER_SALT = 1, 2  # the same seed serves both, for different purposes

ROW = np.dtype(
    [
        ("part", np.uint32),
        ("start", np.int64),  # in the flat stream of the part
        ("stop", np.int64),
        ("document", np.uint8, 16),
        ("n_bytes", np.uint32),
        ("continued", np.bool_),
        ("last", np.bool_),  # the end id follows
    ]
)


@dataclass(frozen=True)
class Documents:
    """All documents of the parts, in canonical order."""

    part: NDArray[np.uint32]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    ids: NDArray[np.uint8]  # (documents, 16)
    n_bytes: NDArray[np.uint32]

    @classmethod
    def of(cls, parts: Sequence[Path]) -> "Documents":
        """Look into the indices of the parts; no token is read."""
        files = [TokenFile(path) for path in parts]
        return cls(
            np.repeat(np.arange(len(files), dtype=np.uint32), [len(file) for file in files]),
            np.concatenate([file.offsets[:-1] for file in files]),
            np.concatenate([file.offsets[1:] for file in files]),
            np.concatenate([file.documents for file in files]),
            np.concatenate([file.n_bytes for file in files]),
        )

    @property
    def halves(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The document ids as two numbers each."""
        words = np.ascontiguousarray(self.ids).view("<u8")
        return words[:, 0], words[:, 1]

    def first_of_each(self) -> NDArray[np.int64]:
        """The documents without exact duplicates, of which the first is kept."""
        low, high = self.halves
        order = np.argsort(low)
        same_low = low[order][1:] == low[order][:-1]
        shared = np.zeros(len(low), np.bool_)
        shared[order[1:][same_low]] = shared[order[:-1][same_low]] = True
        some = np.flatnonzero(shared)  # few: only among these can there be duplicates
        some = some[np.lexsort((some, high[some], low[some]))]
        again = (low[some][1:] == low[some][:-1]) & (high[some][1:] == high[some][:-1])
        first = np.ones(len(low), np.bool_)
        first[some[1:][again]] = False
        return np.flatnonzero(first)


@dataclass(frozen=True)
class Plan:
    """Which rows go into which file, in order."""

    files: dict[str, NDArray[Any]]  # name of a shard: its rows
    duplicates: int
    cut: int  # documents longer than a shard


def make_plan(documents: Documents, seed: int, shard_tokens: int, fractions: dict[str, float], dedup: bool) -> Plan:
    """Deal the documents to splits and files."""
    low, high = documents.halves
    lengths = documents.stop - documents.start + 1  # with the end id
    draw = (mix(fold(seed, low) + np.uint64(SPLIT_SALT)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    keys = mix(fold(seed, low) ^ mix(high + np.uint64(ORDER_SALT)))
    chosen = documents.first_of_each() if dedup else np.arange(len(low))
    files: dict[str, NDArray[Any]] = {}
    cut = bound = 0.0
    kept = np.zeros(len(low), np.bool_)
    kept[chosen] = True
    for split, fraction in (*fractions.items(), ("train", 1.0)):
        inside = (draw >= bound) & (draw < bound + fraction)
        bound += fraction
        rows, row_keys, long = pieces(documents, np.flatnonzero(inside & kept), keys, shard_tokens)
        cut += long
        count = max(1, -(-int(lengths[inside].sum()) // shard_tokens))
        if split != "train" and not len(rows):
            continue
        home = row_keys % np.uint64(count)
        for i in range(count):
            mine = np.flatnonzero(home == i)  # in canonical order, which decides between equal keys
            files[f"{split}-{i:05}.arrow"] = rows[mine[np.argsort(row_keys[mine], kind="stable")]]
    return Plan(files, len(low) - len(chosen), int(cut))


def pieces(
    documents: Documents, chosen: NDArray[np.int64], keys: NDArray[np.uint64], longest: int
) -> tuple[NDArray[Any], NDArray[np.uint64], int]:
    """A row for each document, or several for one that is longer than a shard; and the key of each row."""
    size = documents.stop[chosen] - documents.start[chosen]
    many = np.maximum(1, -(-(size + 1) // longest))  # the end id counts
    at = np.repeat(chosen, many)
    number = np.arange(len(at)) - np.repeat(np.cumsum(many) - many, many)
    rows = np.empty(len(at), ROW)
    rows["part"], rows["document"] = documents.part[at], documents.ids[at]
    rows["start"] = documents.start[at] + number * longest
    rows["stop"] = np.minimum(rows["start"] + longest, documents.stop[at])
    rows["last"] = number == np.repeat(many, many) - 1
    rows["continued"] = number > 0
    rows["n_bytes"] = np.where(number == 0, documents.n_bytes[at], 0)
    moved = mix(keys[at] + number.astype(np.uint64))
    return rows, np.where(number == 0, keys[at], moved), int((many > 1).sum())


def shard_tasks(plan: Plan, folder: Path, identity: Facts) -> list[Task]:
    """One task for each shard; its rows are put beside it, where the worker will look."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = []
    for name, rows in plan.files.items():
        np.save(folder / f"{name}.rows.npy", rows, allow_pickle=False)
        weight = int((rows["stop"] - rows["start"]).sum()) * 2
        tasks.append(Task(name, identity | {"file": name}, weight, name))
    return tasks


class ShardWriter:
    """The worker of the second stage."""

    def __init__(self, parts: list[str], rows_folder: str, end: int, max_id: int) -> None:
        self.paths = [Path(part) for part in parts]
        self.rows_folder, self.end, self.max_id = Path(rows_folder), end, max_id
        self.files: dict[int, TokenFile] = {}

    def part(self, i: int) -> TokenFile:
        """A part, opened when it is first needed."""
        if i not in self.files:
            self.files[i] = TokenFile(self.paths[i])
        return self.files[i]

    def do(self, work: str, path: Path) -> Facts:
        """Write the shard of this name."""
        rows = np.load(self.rows_folder / f"{work}.rows.npy", mmap_mode="r", allow_pickle=False)
        lengths = (rows["stop"] - rows["start"] + rows["last"]).astype(np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), lengths]).cumsum()
        dtype = self.part(0).flat.dtype
        flat = np.empty(int(offsets[-1]), dtype)
        for part, start, stop, at in zip(
            rows["part"].tolist(), rows["start"].tolist(), rows["stop"].tolist(), offsets.tolist(), strict=False
        ):
            flat[at : at + stop - start] = self.part(part).flat[start:stop]
        flat[offsets[1:][rows["last"]] - 1] = self.end
        if len(flat) and int(flat.max()) > self.max_id:
            for part in np.unique(rows["part"]).tolist():
                self.part(part).check_ids(self.max_id)
        columns = [list_array(flat, offsets), column(rows["document"], DOCUMENT), bit_array(rows["continued"])]
        write_batch(path, pa.RecordBatch.from_arrays(columns, schema=shard_schema(dtype)))
        return {
            "documents": int((~rows["continued"]).sum()),
            "tokens": len(flat),
            "bytes": int(rows["n_bytes"].sum(dtype=np.int64)),
            "min_id": int(flat.min()) if len(flat) else None,
            "max_id": int(flat.max()) if len(flat) else None,
        }
