"""What to read: a source (local file, URL, Hub file, or tinyworld) and the options for reading it."""

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
    """A file here or elsewhere, a dataset that is read as a stream, or the built-in world."""

    name: str  # without its folder
    bytes: int
    format: str
    compression: str | None = None
    path: str = ""  # or address
    seed: int = 0  # of tinyworld
    revision: str = ""  # of what is elsewhere: it cannot be hashed without being read
    weight: float = 1.0  # of its documents, chosen by hash
    split: str = "train"
    splits: tuple[str, ...] = ()  # all that its corpus has; none of them is made by hash
    document_start: str = ""  # how rows are joined to documents: see the catalogue
    rows_per_document: int = 1
    joiner: str = ""
    corpus: str = ""  # by which name it was found on the hub
    num_shards: int = 1  # of a stream

    @property
    def is_remote(self) -> bool:
        """Whether it is elsewhere."""
        return "://" in self.path

    @property
    def joins_rows(self) -> bool:
        """Whether several rows are a document."""
        return bool(self.document_start) or self.rows_per_document > 1

    @cached_property
    def sha256(self) -> str:
        """The hash of its content, found when it is first asked for."""
        if self.format == "tinyworld":
            return f"seed {self.seed}"
        try:
            return sha256_of(Path(self.path))
        except OSError as error:
            raise BertGPTError("BG313", "this file cannot be read", path=self.path, cause=error.strerror) from None

    def identity(self) -> dict[str, Any]:
        """What a manifest says of it."""
        known = {"revision": self.revision} if self.revision else {"sha256": self.sha256}
        more = {
            "weight": self.weight if self.weight < 1 else None,
            "split": self.split if self.splits else None,
            "rows": [self.document_start, self.rows_per_document, self.joiner] if self.joins_rows else None,
        }
        return {"name": self.name, "bytes": self.bytes, **known} | {k: v for k, v in more.items() if v is not None}


@dataclass(frozen=True)
class ReadOptions:
    """How to read documents; what follows is part of every artefact's config."""

    text_column: str = "text"
    txt_documents: str = "blank-line"
    separator: str | None = None
    max_doc_bytes: int = 100_000_000

    @property
    def sequential_only(self) -> bool:
        """Whether a txt file can only be split from its beginning: it is one document, or separators may overlap.

        In "-----" with the separator "--" the second begins where the first has ended, which a reader that comes in the
        middle cannot know.
        """
        ends = self.separator or ""
        return self.whole_files or any(ends.startswith(ends[i:]) for i in range(1, len(ends)))

    @property
    def whole_files(self) -> bool:
        """Whether a txt file is one document."""
        return self.separator is None and self.txt_documents == "file"


@dataclass(frozen=True)
class InputSplit:
    """What one task reads: bytes, row groups, record batches or documents `start` to `stop` of a source."""

    source: Source
    start: int
    stop: int
    approx_bytes: int  # bytes, about
    read_options: ReadOptions = field(default_factory=ReadOptions)

    def identity(self) -> dict[str, Any]:
        """What a receipt says of it."""
        return {**self.source.identity(), "start": self.start, "stop": self.stop, **asdict(self.read_options)}


@dataclass(frozen=True)
class DatasetSelector:
    """What is meant by the names of sources, beyond the names."""

    subset: str | None = None
    split: str | None = None
    revision: str | None = None


def detect_format(path: PurePath) -> tuple[str, str | None] | None:
    """The format and compression that a file's name tells."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    stem = path.with_suffix("") if compression else path
    format_ = FORMATS.get(stem.suffix.lower())
    return (format_, compression) if format_ else None
