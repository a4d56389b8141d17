"""Data source definitions: what to read (local file, URL, Hub file, Hub stream or tinyworld) and how to read it."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import sha256_of

FORMATS = {
    ".txt": "txt", ".text": "txt", ".tokens": "txt", ".raw": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".csv": "csv", ".tsv": "tsv",
    ".parquet": "parquet", ".arrow": "arrow",
}  # fmt: skip
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True)
class Source:
    """A local or remote file, a dataset that is streamed through `datasets`, or tinyworld."""

    name: str  # file name without its folder
    bytes: int
    format: str
    compression: str | None = None
    path: str = ""  # local path or URL
    seed: int = 0  # of tinyworld
    revision: str = ""  # of a remote file, which cannot be hashed without reading it
    weight: float = 1.0  # fraction of the documents to keep, sampled by hash
    split: str = "train"
    splits: tuple[str, ...] = ()  # all official splits of the corpus; none of them is made by hash
    document_start: str = ""  # regular expression of a document's first row, where rows are lines: see `Corpus`
    rows_per_document: int = 1
    joiner: str = ""  # put between the rows of a document
    corpus: str = ""  # corpus name or Hub repository, for sources from the Hub
    num_shards: int = 1  # of a stream

    @property
    def is_remote(self) -> bool:
        """Whether the source is a URL or a Hub file."""
        return "://" in self.path

    @property
    def joins_rows(self) -> bool:
        """Whether a document consists of several rows."""
        return bool(self.document_start) or self.rows_per_document > 1

    @cached_property
    def sha256(self) -> str:
        """Hash of the content, computed at the first access."""
        if self.format == "tinyworld":
            return f"seed {self.seed}"
        try:
            return sha256_of(Path(self.path))
        except OSError as error:
            raise unreadable_error(self.path, error) from None

    def manifest_entry(self) -> dict[str, Any]:
        """The source's entry in a manifest: name, size, hash or revision, and what selects its documents."""
        version = {"revision": self.revision} if self.revision else {"sha256": self.sha256}
        optional = {
            "weight": self.weight if self.weight < 1 else None,
            "split": self.split if self.splits else None,
            "rows": [self.document_start, self.rows_per_document, self.joiner] if self.joins_rows else None,
        }
        entry = {"name": self.name, "bytes": self.bytes, **version}
        return entry | {key: value for key, value in optional.items() if value is not None}


@dataclass(frozen=True)
class ReadOptions:
    """How to read documents. All fields are part of the artifact's config."""

    text_column: str = "text"
    txt_documents: str = "blank-line"
    separator: str | None = None
    max_doc_bytes: int = 100_000_000

    @property
    def sequential_only(self) -> bool:
        """Whether a txt file must be read from its start: it is one document, or separators may overlap.

        In "-----" with the separator "--", the second separator starts where the first one ended, which a reader that
        starts in the middle of the file cannot know.
        """
        separator = self.separator or ""
        return self.whole_files or any(separator.startswith(separator[i:]) for i in range(1, len(separator)))

    @property
    def whole_files(self) -> bool:
        """Whether a txt file is one document."""
        return self.separator is None and self.txt_documents == "file"


@dataclass(frozen=True)
class InputSplit:
    """The input of one task: bytes, row groups, record batches, documents or dataset shards `start` to `stop`."""

    source: Source
    start: int
    stop: int  # -1: to the end
    approx_bytes: int
    read_options: ReadOptions = field(default_factory=ReadOptions)

    def task_key(self) -> dict[str, Any]:
        """The part of a task's key that says what the task reads."""
        return {**self.source.manifest_entry(), "start": self.start, "stop": self.stop, **asdict(self.read_options)}


@dataclass(frozen=True)
class DatasetSelector:
    """Subset, split and revision of a dataset."""

    subset: str | None = None
    split: str | None = None
    revision: str | None = None


def detect_format(path: PurePath) -> tuple[str, str | None] | None:
    """Format and compression by file extension; None if the format is not supported."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    stem = path.with_suffix("") if compression else path
    format_ = FORMATS.get(stem.suffix.lower())
    return (format_, compression) if format_ else None


def unsupported_format(name: str) -> BertGPTError:
    """The error for a file whose extension is not supported."""
    cause = f"supported: {', '.join(FORMATS)}, each also with .gz or .zst"
    return BertGPTError("BG211", f"unsupported file format: {name}", cause=cause)


def unreadable_error(path: str, error: Exception) -> BertGPTError:
    """The error for a file that is truncated, corrupt or not of the format its name says, or that cannot be opened."""
    cause = getattr(error, "strerror", None) or str(error).split("\n")[0][:200]
    return BertGPTError("BG313", "cannot read this file", path=path, cause=cause)
