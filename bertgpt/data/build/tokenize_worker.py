"""Worker that tokenizes text: reads an input split and writes its documents as ids, in the order of the source."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bertgpt.data.build.files import TOKENIZED, token_metadata
from bertgpt.data.documents import DocumentBatch
from bertgpt.data.execution.tasks import Metadata, Task
from bertgpt.data.format import DOCUMENT, column, list_array, single_string, tokenized_schema, write_batch
from bertgpt.data.sources.read import BadDataPolicy, read_documents
from bertgpt.data.sources.source import InputSplit, Source
from bertgpt.data.tokenizers.encoders import Encoder
from bertgpt.data.tokenizers.load import from_path
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.utils.rng import uniform

ENCODERS: dict[str, Encoder] = {}  # that this process has loaded, by the fingerprint of the tokenizer
SAMPLE_SALT = 3  # a draw of its own, independent of splits and order
SPILL = 32_000_000  # ids that are held in memory before they go to a file


class TokenizeWorker:
    """Worker that writes tokenized files."""

    def __init__(self, folder: str, fingerprint: str, on_error: str | None) -> None:
        self.warnings: list[str] = []
        self.encoder = ENCODERS.get(fingerprint) or Encoder(from_path(Path(folder)), self.warnings.append)
        self.encoder.warn = self.warnings.append
        self.tokenizer = self.encoder.tokenizer
        self.on_error = on_error
        self.specials = [text.encode() for text in self.tokenizer.special_tokens]

    def run(self, payload: InputSplit, path: Path) -> Metadata:
        """Tokenize one input split."""
        source = payload.source
        policy = BadDataPolicy(policy_of(self.on_error, source))
        self.encoder.reset_check()
        self.warnings.clear()
        counts: Counter[str] = Counter()
        hashes: list[bytes] = []
        sizes: list[NDArray[np.int64]] = []
        ids: list[NDArray[Any]] = []
        lengths: list[NDArray[np.int64]] = []
        with SpillBuffer(path, self.tokenizer.dtype) as spill:
            for batch in read_documents(payload, policy):
                if source.weight < 1:
                    chosen = sample_mask(batch, source.weight)
                    counts["not_sampled"] += len(batch) - int(chosen.sum())
                    batch = batch.select(chosen)
                flat, n_tokens = self.encoder.encode(batch)
                ids.append(cast_ids(flat, self.tokenizer))
                lengths.append(n_tokens)
                hashes.append(batch.hashes())
                sizes.append(batch.sizes)
                counts["special_in_text"] += batch.count_occurrences(self.specials)
                spill.add(ids)
            flat = spill.concatenate(ids)
            offsets = np.concatenate([np.zeros(1, np.int64), *lengths]).cumsum()
            n_bytes = np.concatenate([np.zeros(0, np.int64), *sizes]).astype(np.uint32)
            doc_ids = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 16)
            write_tokenized(path, source.name, doc_ids, flat, offsets, n_bytes)
            metadata = token_metadata(flat, len(n_bytes), int(n_bytes.sum(dtype=np.int64)))
        return metadata | {
            "counts": {name: n for name, n in sorted((policy.counts + counts).items()) if n},
            "bad": sum(n for name, n in policy.counts.items() if name != "empty"),
            "on_error": policy.on_error,
            "split": source.split,
            "splits": list(source.splits),
            "backend": self.encoder.backend.name,
            "warnings": list(self.warnings),
        }


def policy_of(on_error: str | None, source: Source) -> str:
    """What to do with bad data: by default skip it in corpora of the Hub, which the user cannot repair."""
    return on_error or ("skip" if source.corpus else "stop")


def sample_mask(batch: DocumentBatch, fraction: float) -> NDArray[np.bool_]:
    """Which documents belong to a sample of this size, by hash; a larger sample contains every smaller one."""
    low = np.frombuffer(batch.hashes(), "<u8")[::2]
    return uniform(SAMPLE_SALT, low, 1)[:, 0] < fraction


class SpillBuffer:
    """Moves ids beyond what memory should hold to a file beside the output, which is then memory-mapped."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path, self.dtype = path.with_suffix(".spill.tmp"), dtype
        self.file: BinaryIO | None = None

    def __enter__(self) -> "SpillBuffer":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.file is not None:
            self.file.close()
            self.path.unlink(missing_ok=True)

    def add(self, ids: list[NDArray[Any]]) -> None:
        """Write the arrays to the file and clear the list, if they have grown too large."""
        if sum(map(len, ids)) > SPILL:
            file = self.file = self.file or self.path.open("wb")
            for array in ids:
                file.write(array.data)
            ids.clear()

    def concatenate(self, ids: list[NDArray[Any]]) -> NDArray[Any]:
        """All ids in one array: those in the file, then these."""
        if self.file is None:
            return np.concatenate(ids) if ids else np.empty(0, self.dtype)
        for array in ids:
            self.file.write(array.data)
        self.file.flush()
        return np.asarray(np.memmap(self.path, self.dtype, "r"))


def cast_ids(ids: NDArray[np.uint32], tokenizer: Tokenizer) -> NDArray[Any]:
    """Ids in the tokenizer's dtype; checked, since a cast that is too narrow wraps silently: 70000 becomes 4464."""
    if len(ids) and int(ids.max()) > tokenizer.max_id:
        raise ValueError(f"the encoder returned the id {int(ids.max())}, the largest is {tokenizer.max_id}")
    return ids.astype(tokenizer.dtype)


def write_tokenized(
    path: Path,
    source: str,
    doc_ids: NDArray[np.uint8],
    flat: NDArray[Any],
    offsets: NDArray[np.int64],
    n_bytes: NDArray[np.uint32],
) -> None:
    """Write a tokenized file in Arrow format."""
    schema = tokenized_schema(flat.dtype)
    columns = [
        column(doc_ids, DOCUMENT),
        pa.DictionaryArray.from_arrays(column(np.zeros(len(n_bytes), np.int16)), single_string(source)),
        list_array(flat, offsets),
        column(n_bytes),
    ]
    write_batch(path, pa.RecordBatch.from_arrays(columns, schema=schema))


def tokenize_tasks(splits: Sequence[InputSplit], tokenizer: Tokenizer) -> list[Task]:
    """One task for each input split; files are numbered in canonical order."""
    return [
        Task(
            f"{TOKENIZED}{i:05}.arrow",
            split.task_key() | {"tokenizer": tokenizer.fingerprint},
            split.approx_bytes,
            split,
        )
        for i, split in enumerate(splits)
    ]
