"""Sets of files that one step of a build hands to the next, and their counts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bertgpt.data.execution.tasks import Metadata, TaskResult
from bertgpt.data.tokenizers.tokenizer import Tokenizer

TOKENIZED, TRUNCATED = "part-", "cut-"  # file names; a file that a limit truncates is written beside the full one
COUNTS = ("documents", "tokens", "bytes")  # bytes are those of the text
ENTRY_KEYS = ("documents", "tokens", "min_id", "max_id", "counts", "split", "splits")  # of a file, in the manifest


@dataclass(frozen=True)
class FileSet:
    """The files of a task group, with their results."""

    folder: Path
    results: Sequence[TaskResult]

    @property
    def paths(self) -> list[Path]:
        """The path of each file."""
        return [self.folder / result.name for result in self.results]


@dataclass(frozen=True)
class TokenizedFiles(FileSet):
    """Tokenized files in canonical order, and their tokenizer."""

    tokenizer: Tokenizer
    tokenizer_folder: Path


def split_of(name: str) -> str:
    """The split of a file: train of train-00003.arrow."""
    return name.rpartition("-")[0]


def sum_counts(results: Sequence[TaskResult]) -> dict[str, int]:
    """Documents, tokens and bytes of all files together."""
    return {name: sum(result.metadata[name] for result in results) for name in COUNTS}


def sum_by_split(results: Iterable[TaskResult], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """The number of files and the sums of these counts for each split."""
    splits: dict[str, Counter[str]] = {}
    for result in results:
        counts = {"files": 1} | {name: result.metadata[name] for name in names}
        splits.setdefault(split_of(result.name), Counter()).update(counts)
    return {split: dict(counts) for split, counts in splits.items()}


def file_entry(result: TaskResult, extra: Metadata, keys: Sequence[str] = ENTRY_KEYS) -> Metadata:
    """The manifest entry of a file: its name, size and hash, `extra`, and those of the keys that its metadata has."""
    entry = {"path": result.name, "bytes": result.bytes, "sha256": result.sha256} | extra
    return entry | {key: result.metadata[key] for key in keys if key in result.metadata}


def token_metadata(flat: NDArray[Any], documents: int, text_bytes: int) -> Metadata:
    """Counts of a tokenized file or a shard, and its range of ids."""
    return {
        "documents": documents,
        "tokens": len(flat),
        "bytes": text_bytes,
        "min_id": int(flat.min()) if len(flat) else None,
        "max_id": int(flat.max()) if len(flat) else None,
    }


def result_of(entry: Metadata) -> TaskResult:
    """The result that the manifest entry of a tokenized file was made from."""
    metadata = {key: entry[key] for key in ENTRY_KEYS if key in entry} | {"bytes": entry["text_bytes"]}
    return TaskResult(entry["path"], entry["bytes"], entry["sha256"], metadata)
