"""What to read: files, globs and folders, or the built-in world, each known by its name and its content."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from bertgpt.config.corpora import CORPORA
from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr
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
    version: str = ""  # of what is elsewhere: it cannot be hashed without being read
    share: float = 1.0  # of its documents, chosen by hash
    split: str = "train"
    splits: tuple[str, ...] = ()  # all that its corpus has; none of them is made by hash
    document_start: str = ""  # how rows are joined to documents: see the catalogue
    rows: int = 1
    joiner: str = ""
    corpus: str = ""  # by which name it was found on the hub
    parts: int = 1  # of a stream

    @property
    def is_remote(self) -> bool:
        """Whether it is elsewhere."""
        return "://" in self.path

    @property
    def joins_rows(self) -> bool:
        """Whether several rows are a document."""
        return bool(self.document_start) or self.rows > 1

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
        known = {"revision": self.version} if self.version else {"sha256": self.sha256}
        more = {
            "weight": self.share if self.share < 1 else None,
            "split": self.split if self.splits else None,
            "rows": [self.document_start, self.rows, self.joiner] if self.joins_rows else None,
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
    def is_whole(self) -> bool:
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
    weight: int  # bytes, about
    reading: ReadOptions = field(default_factory=ReadOptions)

    def identity(self) -> dict[str, Any]:
        """What a receipt says of it."""
        return {**self.source.identity(), "start": self.start, "stop": self.stop, **asdict(self.reading)}


@dataclass(frozen=True)
class DatasetSelector:
    """What is meant by the names of sources, beyond the names."""

    subset: str | None = None
    split: str | None = None
    revision: str | None = None


def resolve_sources(names: Sequence[str], wanted: DatasetSelector = DatasetSelector()) -> list[Source]:
    """The sources that are meant, in canonical order: by name, then by content."""
    sources: dict[str, Source] = {}
    for name in names:
        name, share = parse_weight(name)
        for source in resolve_one(name, wanted):
            key = f"tinyworld:{source.seed}" if source.format == "tinyworld" else source.path
            key = key if source.is_remote or not source.path else str(Path(source.path).resolve())
            if key in sources:
                raise BertGPTError("BG211", f"{source.path or name} is named twice")
            sources[key] = replace(source, share=share)
    return in_order(sources.values())


def in_order(sources: Iterable[Source]) -> list[Source]:
    """Canonical order: by name, then by content."""
    sources = list(sources)
    namesakes = Counter(source.name for source in sources)
    return sorted(sources, key=lambda s: (s.name, (s.version or s.sha256) if namesakes[s.name] > 1 else "", s.split))


def local_bytes(names: Iterable[str]) -> int:
    """How large the files are that are here, found at once."""
    paths = [path for name in names for path in glob.glob(parse_weight(name)[0], recursive=True)]  # noqa: PTH207
    files = [file for path in map(Path, paths) for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())


def parse_weight(name: str) -> tuple[str, float]:
    """SOURCE=0.25 is a quarter of its documents."""
    source, _, share = name.rpartition("=")
    query = "?" in name  # of an address, where = means something else
    if not source or query or os.path.exists(name) or not re.fullmatch(r"[0-9.eE+-]+", share):  # noqa: PTH110
        return name, 1.0
    try:
        value = float(share)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        cause = f"{share} is not above 0 and at most 1: documents are left out, never repeated"
        raise BertGPTError("BG204", f"the weight of {source} cannot be taken", cause=cause)
    return source, value


def remote_names(names: Iterable[str]) -> list[str]:
    """Those of the names that mean something elsewhere."""
    plain = {name: parse_weight(name)[0] for name in names}
    there = [name for name, bare in plain.items() if bare in CORPORA or bare.startswith("hf:") or "://" in bare]
    return [name for name in there if not os.path.exists(plain[name])]  # noqa: PTH110


def resolve_one(name: str, wanted: DatasetSelector) -> list[Source]:
    """What a single name stands for."""
    if not os.path.exists(name):  # noqa: PTH110 - a Path of an impossible name raises
        if name.partition(":")[0] == "tinyworld":
            return [tinyworld_source(name)]
        if name in CORPORA or name.startswith("hf:"):
            from bertgpt.data.sources.remote import catalog_sources, hub_dataset

            return hub_dataset(name, wanted) if name.startswith("hf:") else catalog_sources(name, wanted.subset)
        if "://" in name:
            from bertgpt.data.sources.remote import url_sources

            return url_sources(name)
    return local_sources(name)


def tinyworld_source(name: str) -> Source:
    """The built-in world, or another one by its seed."""
    seed = name.partition(":")[2] or "0"
    if not seed.isdecimal():
        raise BertGPTError("BG211", f"{name} is no world", hint="tinyworld, or tinyworld:SEED with a whole number")
    return Source(name, 0, "tinyworld", seed=int(seed))


def local_sources(name: str) -> list[Source]:
    """A file, a folder or a glob."""
    path = Path(name)
    if os.path.isdir(name):  # noqa: PTH112 - a Path of an impossible name raises
        files = [f for f in sorted(path.rglob("*")) if not any(p[0] == "." for p in f.relative_to(path).parts)]
        missing = f"the folder {name} holds no text that can be read"
    elif os.path.isfile(name):  # noqa: PTH113
        if not detect_format(path):
            known = ", ".join(FORMATS)
            cause = f"the kinds are {known}, each also with .gz or .zst"
            raise BertGPTError("BG211", f"{name} is of no known kind", cause=cause)
        files, missing = [path], ""
    else:
        found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - names may be absolute
        files = [Path(file) for file in found]
        missing = f"nothing matches {short_repr(name)}"
    files = [file for file in files if detect_format(file) and file.is_file()]
    if not files:
        known_names = [file.name for file in path.parent.glob("*")] if os.path.isdir(path.parent) else []  # noqa: PTH112
        near = did_you_mean(path.name, [known for known in known_names if known != path.name])
        raise BertGPTError(
            "BG211", missing, cause=f"looked in {Path.cwd()}", hint=near or did_you_mean(name, ["tinyworld", *CORPORA])
        )
    return [describe_file(file) for file in files]


def detect_format(path: PurePath) -> tuple[str, str | None] | None:
    """The format and compression that a file's name tells."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    stem = path.with_suffix("") if compression else path
    format_ = FORMATS.get(stem.suffix.lower())
    return (format_, compression) if format_ else None


def describe_file(path: Path) -> Source:
    """A file with its size and kind."""
    format_, compression = detect_format(path) or ("", None)
    try:
        return Source(path.name, path.stat().st_size, format_, compression, str(path))
    except OSError as error:
        raise BertGPTError("BG313", "this file cannot be read", path=str(path), cause=error.strerror) from None
