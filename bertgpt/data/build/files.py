"""Sets of files that one step of a build hands to the next, and their counts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

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


def sum_counts(results: Iterable[TaskResult]) -> dict[str, int]:
    """Documents, tokens and bytes of all files together."""
    counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    for result in results:
        counts.update({name: result.metadata[name] for name in COUNTS})
    return dict(counts)


def sum_by_split(results: Iterable[TaskResult], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """The number of files and the sums of these counts for each split."""
    splits: dict[str, Counter[str]] = {}
    for result in results:
        counts = {"files": 1} | {name: result.metadata[name] for name in names}
        splits.setdefault(split_of(result.name), Counter()).update(counts)
    return {split: dict(counts) for split, counts in splits.items()}


def file_entry(result: TaskResult) -> Metadata:
    """The manifest entry of a tokenized file or a shard."""
    entry = {
        "path": result.name,
        "bytes": result.bytes,
        "sha256": result.sha256,
        "text_bytes": result.metadata["bytes"],
    }
    return entry | {key: result.metadata[key] for key in ENTRY_KEYS if key in result.metadata}


def result_of(entry: Metadata) -> TaskResult:
    """The result that a manifest entry was made from."""
    metadata = {key: entry[key] for key in ENTRY_KEYS if key in entry} | {"bytes": entry["text_bytes"]}
    return TaskResult(entry["path"], entry["bytes"], entry["sha256"], metadata)
