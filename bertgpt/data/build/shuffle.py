"""Tokenized files to shards: drop duplicates, assign documents to splits and files by hash, shuffle within each file.

Where a document goes depends on its own hash and the seed, and on nothing else: not on workers, the order of files, or
the rest of the corpus. So exact duplicates stay on one side of a split, and new data moves no old document. Splits that
a corpus comes with are kept, and no split of the same name is made from it.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertgpt.config.code_deps import code_hash
from bertgpt.config.data_options import ShardOptions
from bertgpt.data.build.files import FileSet, TokenizedFiles
from bertgpt.data.build.shard_worker import ShardRows, ShardWriter, fragments_per_document, ranges_within
from bertgpt.data.execution.tasks import Metadata, Task, TaskGroup
from bertgpt.data.execution.workdir import WorkDirectory
from bertgpt.data.format import TokenFile
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.rng import hash_key, splitmix64

SPLITS = ("train", "val", "test")
SPLIT_SALT, ORDER_SALT = 1, 2  # one seed serves both, for different draws
BLOCK = 8192  # documents: few enough that the cache holds all that is computed from them


@dataclass(frozen=True)
class DocumentIndex:
    """All documents of the tokenized files, in canonical order."""

    hashes: NDArray[np.uint8]  # (documents, 16)
    tokens: NDArray[np.int64]  # of each, without the end id
    source_split: NDArray[np.int8]  # the split that it comes from, as an index into SPLITS
    may_join: dict[str, NDArray[np.bool_]]  # split -> whether the document's source leaves it to us to make this split

    @classmethod
    def read(cls, tokenized: TokenizedFiles) -> "DocumentIndex":
        """Read the indices of the files; no token is read."""
        files = [TokenFile(path) for path in tokenized.paths]
        metadata = [result.metadata for result in tokenized.results]
        sizes = [len(file) for file in files]

        def per_document(values: Iterable[Any], dtype: Any) -> NDArray[Any]:
            return np.repeat(np.array(list(values), dtype), sizes)

        return cls(
            np.concatenate([file.documents for file in files]),
            np.concatenate([np.diff(file.offsets) for file in files]),
            per_document((SPLITS.index(file.get("split", "train")) for file in metadata), np.int8),
            {split: per_document((split not in f.get("splits", ()) for f in metadata), np.bool_) for split in SPLITS},
        )

    def halves(self, rows: slice | NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The hashes of these documents as two 64-bit numbers each."""
        words = self.hashes[rows].view("<u8")
        return words[:, 0], words[:, 1]

    def dedup_mask(self) -> NDArray[np.bool_]:
        """Which documents to keep: the first of all exact duplicates."""
        first = np.ones(len(self.hashes), np.bool_)
        low, _ = self.halves(slice(None))
        ordered = np.sort(low)
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(repeated):
            rows = np.flatnonzero(np.isin(low, repeated))  # few: there can be no duplicates among the others
            from_train = self.source_split[rows] == 0  # keep the copy in an official test split, drop that in train
            rows = rows[np.lexsort((rows, from_train, *self.halves(rows)))]
            low, high = self.halves(rows)
            duplicate = (low[1:] == low[:-1]) & (high[1:] == high[:-1])
            first[rows[1:][duplicate]] = False
        return first

    def assign_splits(self, seed: int, fractions: dict[str, float]) -> tuple[NDArray[np.int8], NDArray[np.uint64]]:
        """The split of each document, and the key that decides its file and its place there."""
        split_of, keys = self.source_split.copy(), np.empty(len(self.hashes), np.uint64)
        for start in range(0, len(keys), BLOCK):
            block = slice(start, start + BLOCK)
            low, high = self.halves(block)
            hashed = hash_key(seed, low)
            keys[block] = splitmix64(hashed ^ splitmix64(high + np.uint64(ORDER_SALT)))
            draw, bound = split_draws(hashed), 0.0
            for split, fraction in fractions.items():
                chosen = (draw >= bound) & (draw < bound + fraction)
                chosen &= self.may_join[split][block] & (self.source_split[block] == 0)
                split_of[block][chosen] = SPLITS.index(split)
                bound += fraction
        return split_of, keys

    def how_to_fill(self, split: str, fractions: dict[str, float], seed: int) -> str:
        """What gives an empty split a document: the smallest fraction that does and leaves others for training."""
        low, _ = self.halves(slice(None))
        draws = np.unique(split_draws(hash_key(seed, low))[self.may_join[split] & (self.source_split == 0)])
        start = sum(fractions[name] for name in list(fractions)[: list(fractions).index(split)])
        behind = draws[draws >= start]
        if len(behind) < 2:
            return f"{len(draws):,} documents are too few to split"
        fraction = math.ceil(1e4 * (behind[0] - start)) / 1e4 + 1e-4
        return f"the smallest --{split}-fraction with a document is {fraction:.4f}"


def split_draws(hashed: NDArray[np.uint64]) -> NDArray[np.float64]:
    """A draw in [0, 1) of each document, which decides its split."""
    return (splitmix64(hashed + np.uint64(SPLIT_SALT)) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class ShardPlan:
    """Which rows go into which shard."""

    shards: dict[str, ShardRows]  # by file name
    max_tokens: int  # of a row
    duplicates: int
    fragmented: int  # documents longer than a shard


@dataclass(frozen=True)
class Shards(FileSet):
    """Shards, and the plan that they follow."""

    plan: ShardPlan


def shard_config(options: ShardOptions, tokens: Metadata) -> Metadata:
    """What decides the bytes of the shards; `tokens` is what decides those of the tokenized files."""
    names = ("shard_tokens", "val_fraction", "test_fraction", "seed", "dedup")
    return {"tokens": tokens} | {name: getattr(options, name) for name in names}


def check_fractions(options: ShardOptions) -> None:
    """Refuse splits that leave nothing for training."""
    if options.val_fraction + options.test_fraction >= 1:
        raise BertGPTError("BG204", "--val-fraction and --test-fraction leave nothing for training")


def assign_documents(tokenized: TokenizedFiles, options: ShardOptions) -> ShardPlan:
    """Assign the documents to splits and files; an empty split is named in a note."""
    index = DocumentIndex.read(tokenized)
    keep = index.dedup_mask() if options.dedup else np.ones(len(index.hashes), np.bool_)
    fractions = {"val": options.val_fraction, "test": options.test_fraction}
    fractions = {split: fraction for split, fraction in fractions.items() if fraction}
    split_of, keys = index.assign_splits(options.seed, fractions)
    shards: dict[str, ShardRows] = {}
    for split in ("val", "test", "train"):
        inside = split_of == SPLITS.index(split)
        chosen = np.flatnonzero(inside & keep)
        if split == "train" and not len(chosen) and (index.source_split == 0).any():
            cause = f"all {len(split_of):,} documents are in other splits"
            raise BertGPTError(
                "BG310", "the train split is empty", cause=cause, hint="use smaller fractions, or more text"
            )
        if split == "train" or len(chosen):
            total = int(index.tokens.sum(where=inside) + inside.sum())  # with end ids and duplicates
            count = max(1, -(-total // options.shard_tokens))
            rows = assign_files(chosen, index.tokens[chosen], keys[chosen], options.shard_tokens, count)
            shards |= {f"{split}-{i:05}.arrow": each for i, each in enumerate(rows)}
        elif split in fractions:
            console.info(f"the {split} split is empty: {index.how_to_fill(split, fractions, options.seed)}")
    fragmented = int((keep & (index.tokens >= options.shard_tokens)).sum())
    return ShardPlan(shards, options.shard_tokens, int((~keep).sum()), fragmented)


def assign_files(
    document: NDArray[np.int64], tokens: NDArray[np.int64], keys: NDArray[np.uint64], max_tokens: int, count: int
) -> Iterator[ShardRows]:
    """The rows of each of `count` files: a document goes to file (key mod count)."""
    fragment = np.zeros(len(document), np.int32)
    if (tokens >= max_tokens).any():  # rare
        counts = fragments_per_document(tokens, max_tokens)
        document, keys = np.repeat(document, counts), np.repeat(keys, counts)
        fragment = ranges_within(counts).astype(np.int32)
        keys = np.where(fragment == 0, keys, splitmix64(keys + fragment.astype(np.uint64)))  # each has its own key
    file = np.empty(len(keys), np.min_scalar_type(count))
    np.remainder(keys, np.uint64(count), out=file, casting="unsafe")
    by_file = np.argsort(file, kind="stable")
    ends = np.bincount(file, minlength=count).cumsum().tolist()
    for start, stop in pairwise([0, *ends]):
        rows = by_file[start:stop]
        yield ShardRows(document[rows], fragment[rows], keys[rows], int(tokens.sum()) // count)


def write_shards(
    plan: ShardPlan, tokenized: TokenizedFiles, workdir: WorkDirectory, config: Metadata, only: set[str] | None = None
) -> Shards:
    """Write the shards of the plan, or `only` those of these names."""
    paths = [str(path) for path in tokenized.paths]
    worker_args = (paths, plan.max_tokens, tokenized.tokenizer.eos_id, tokenized.tokenizer.max_id)
    group = TaskGroup(ShardWriter, worker_args, workdir.folder(config, "shards"), code_hash("shard"))
    identity = config | {"tokenized": [result.sha256 for result in tokenized.results]}
    tasks = [
        Task(name, identity | {"file": name}, 2 * rows.tokens, rows)
        for name, rows in plan.shards.items()
        if only is None or name in only
    ]
    with closing(workdir.run(group, tasks, "writing shards", durable=True)) as results:
        return Shards(group.folder, list(results), plan)
