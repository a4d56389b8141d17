"""Text to token parts: a task reads a piece of a source, and writes its documents as ids in the order of the source."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bertgpt.data.documents import DocumentBatch
from bertgpt.data.execution.tasks import Metadata, Task, TaskResult
from bertgpt.data.format import DOCUMENT, TokenFile, column, list_array, single_string, tokenized_schema, write_batch
from bertgpt.data.sources.read import BadDataPolicy, read_documents
from bertgpt.data.sources.source import InputSplit, Source
from bertgpt.data.tokenizers.encoders import Encoder
from bertgpt.data.tokenizers.load import from_path
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.utils.files import sha256_of, write_atomic
from bertgpt.utils.rng import uniform

ENCODERS: dict[str, Encoder] = {}  # what this process has already, by the identity of the tokenizer
PART, TRUNCATED = "part-", "cut-"  # how parts are called; one that a limit cuts stands beside the whole one meanwhile
FILE_FACTS = ("documents", "tokens", "min_id", "max_id")  # what a manifest says of a file
PART_FACTS = ("counts", "split", "splits")  # and of a part
SHARE_SALT = 3  # another purpose than those of the plan
SPILL = 32_000_000  # ids that are kept in memory before they go to a file


class TokenizeWorker:
    """The worker of the first stage."""

    def __init__(self, folder: str, identity: str, on_error: str | None) -> None:
        self.warnings: list[str] = []
        self.encoder = ENCODERS.get(identity) or Encoder(from_path(Path(folder)), self.warnings.append)
        self.encoder.warn = self.warnings.append
        self.tokenizer = self.encoder.tokenizer
        self.on_error = on_error
        self.specials = [text.encode() for text in self.tokenizer.special_texts]

    def run(self, work: InputSplit, path: Path) -> Metadata:
        """Write the part of one piece."""
        policy = BadDataPolicy(policy_of(self.on_error, work.source))
        self.encoder.reset_check()
        self.warnings.clear()
        counts: Counter[str] = Counter()
        hashes: list[bytes] = []
        sizes: list[NDArray[np.int64]] = []
        ids: list[NDArray[Any]] = []
        lengths: list[NDArray[np.int64]] = []
        with SpillBuffer(path, self.tokenizer.dtype) as spill:
            for texts in read_documents(work, policy):
                if work.source.weight < 1:
                    chosen = sample_mask(texts, work.source.weight)
                    counts["not_chosen"] += len(texts) - int(chosen.sum())
                    texts = texts.select(chosen)
                flat, spans = self.encoder.encode(texts)
                ids.append(cast_ids(flat, self.tokenizer))
                lengths.append(spans)
                hashes.append(texts.hashes())
                sizes.append(texts.sizes)
                counts["special_in_text"] += texts.count(self.specials)
                spill.add(ids)
            flat = spill.all(ids)
            offsets = np.concatenate([np.zeros(1, np.int64), *lengths]).cumsum()
            n_bytes = np.concatenate([np.zeros(0, np.int64), *sizes]).astype(np.uint32)
            documents = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 16)
            write_part(path, work.source.name, documents, flat, offsets, n_bytes)
            facts = facts_of(flat, offsets, n_bytes)
        return facts | {
            "counts": {name: n for name, n in sorted((policy.counts + counts).items()) if n},
            "bad": sum(n for name, n in policy.counts.items() if name != "empty"),
            "on_error": policy.on_error,
            "split": work.source.split,
            "splits": list(work.source.splits),
            "backend": self.encoder.backend.name,
            "warnings": list(self.warnings),
        }


def policy_of(on_error: str | None, source: Source) -> str:
    """What to do with bad data: nobody can mend what is on the hub."""
    return on_error or ("skip" if source.corpus else "stop")


def sample_mask(texts: DocumentBatch, share: float) -> NDArray[np.bool_]:
    """Which documents belong to this share of all; a larger share has those of a smaller one, and more."""
    low = np.frombuffer(texts.hashes(), "<u8")[::2]
    return uniform(SHARE_SALT, low, 1)[:, 0] < share


class SpillBuffer:
    """Ids beyond what memory should hold go to a file beside the part, which is then read through a map."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path, self.dtype = path.with_suffix(".spill.tmp"), dtype
        self.file: BinaryIO | None = None
        self.pending = 0

    def __enter__(self) -> "SpillBuffer":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.file is not None:
            self.file.close()
            self.path.unlink(missing_ok=True)

    def add(self, ids: list[NDArray[Any]]) -> None:
        """Look whether there are too many, and put them away."""
        if sum(len(some) for some in ids) > SPILL:
            file = self.file = self.file or self.path.open("wb")
            for some in ids:
                some.tofile(file)
            ids.clear()

    def all(self, ids: list[NDArray[Any]]) -> NDArray[Any]:
        """Every id of the part in one array."""
        if self.file is None:
            return np.concatenate(ids) if ids else np.empty(0, self.dtype)
        for some in ids:
            some.tofile(self.file)
        self.file.flush()
        return np.asarray(np.memmap(self.path, self.dtype, "r"))


def cast_ids(ids: NDArray[np.uint32], tokenizer: Tokenizer) -> NDArray[Any]:
    """Ids in the type that the tokenizer needs. A cast that is too narrow would wrap in silence: 70000 becomes 4464."""
    if len(ids) and int(ids.max()) > tokenizer.max_id:
        raise ValueError(f"the encoder gave the id {int(ids.max())}, the largest is {tokenizer.max_id}")
    return ids.astype(tokenizer.dtype)


def write_part(
    path: Path,
    source: str,
    documents: NDArray[np.uint8],
    flat: NDArray[Any],
    offsets: NDArray[np.int64],
    n_bytes: NDArray[np.uint32],
) -> None:
    """A part as an Arrow file."""
    schema = tokenized_schema(flat.dtype)
    columns = [
        column(documents, DOCUMENT),
        pa.DictionaryArray.from_arrays(column(np.zeros(len(n_bytes), np.int16)), single_string(source)),
        list_array(flat, offsets),
        column(n_bytes),
    ]
    write_batch(path, pa.RecordBatch.from_arrays(columns, schema=schema))


def facts_of(flat: NDArray[Any], offsets: NDArray[np.int64], n_bytes: NDArray[np.uint32]) -> Metadata:
    """What a manifest says of a part."""
    return {
        "documents": len(offsets) - 1,
        "tokens": len(flat),
        "bytes": int(n_bytes.sum(dtype=np.int64)),
        "min_id": int(flat.min()) if len(flat) else None,
        "max_id": int(flat.max()) if len(flat) else None,
    }


def part_tasks(pieces: Sequence[InputSplit], tokenizer: Tokenizer) -> list[Task]:
    """One task for each piece; parts are numbered in canonical order."""
    return [
        Task(f"{PART}{i:05}.arrow", piece.identity() | {"tokenizer": tokenizer.fingerprint}, piece.approx_bytes, piece)
        for i, piece in enumerate(pieces)
    ]


class DocumentLimit:
    """The first documents of a source, in canonical order: whole ones, the one that crosses the limit is kept."""

    def __init__(self, documents: int | None, tokens: int | None, size: int | None) -> None:
        self.most = {"documents": documents, "tokens": tokens, "bytes": size}

    def __bool__(self) -> bool:
        return any(most is not None for most in self.most.values())

    def reached(self, receipts: Sequence[TaskResult]) -> bool:
        """Whether these parts hold enough."""
        return any(
            most is not None and sum(receipt.metadata[name] for receipt in receipts) >= most
            for name, most in self.most.items()
        )

    def needed(self, receipts: Sequence[TaskResult]) -> list[TaskResult]:
        """The parts that are needed, the last of them perhaps not whole."""
        for n in range(len(receipts) + 1):
            if self.reached(receipts[:n]):
                return list(receipts[:n])
        return list(receipts)

    def cut(self, folder: Path, receipts: Sequence[TaskResult]) -> TaskResult:
        """The last part without what is over the limit, as a file beside it."""
        *before, last = receipts
        part = TokenFile(folder / last.name)
        rows = {
            "documents": np.arange(1, len(part) + 1),
            "tokens": part.offsets[1:],
            "bytes": part.n_bytes.cumsum(dtype=np.int64),
        }
        keep = len(part)
        for name, most in self.most.items():
            if most is not None:
                left = most - sum(receipt.metadata[name] for receipt in before)
                keep = min(keep, int(np.searchsorted(rows[name], left)) + 1)
        if keep >= len(part):
            return last
        offsets = part.offsets[: keep + 1]
        flat, n_bytes = part.flat[: offsets[-1]], part.n_bytes[:keep]
        path = folder / last.name.replace(PART, TRUNCATED)
        source = str(part.batch.column("source").dictionary[0])
        write_atomic(path, lambda aside: write_part(aside, source, part.documents[:keep], flat, offsets, n_bytes))
        facts = last.metadata | facts_of(flat, offsets, n_bytes)
        return TaskResult(path.name, path.stat().st_size, sha256_of(path), facts)
