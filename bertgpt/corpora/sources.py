"""What to read: files, globs and folders, or the built-in world, each known by its name and its content."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bertgpt.errors import BertGPTError, did_you_mean, quoted
from bertgpt.files import sha256_of

FORMATS = {
    ".txt": "txt", ".text": "txt", ".tokens": "txt", ".raw": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".csv": "csv", ".tsv": "tsv",
    ".parquet": "parquet", ".arrow": "arrow",
}  # fmt: skip
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True)
class Source:
    """A file, or the built-in world."""

    name: str  # without its folder
    bytes: int
    format: str
    compression: str | None = None
    path: str = ""
    seed: int = 0  # of tinyworld

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
        return {"name": self.name, "bytes": self.bytes, "sha256": self.sha256}


@dataclass(frozen=True)
class Reading:
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
class Piece:
    """What one task reads: bytes, row groups, record batches or documents `start` to `stop` of a source."""

    source: Source
    start: int
    stop: int
    weight: int  # bytes, about
    reading: Reading = field(default_factory=Reading)

    def identity(self) -> dict[str, Any]:
        """What a receipt says of it."""
        return {**self.source.identity(), "start": self.start, "stop": self.stop, **asdict(self.reading)}


def find(names: Sequence[str]) -> list[Source]:
    """The sources that are meant, in canonical order: by name, then by content."""
    sources: dict[str, Source] = {}
    for name in names:
        for source in one(name):
            key = str(Path(source.path).resolve()) if source.path else f"tinyworld:{source.seed}"
            if key in sources:
                raise BertGPTError("BG211", f"{source.path or name} is named twice")
            sources[key] = source
    namesakes = Counter(source.name for source in sources.values())
    by_content = {name for name, n in namesakes.items() if n > 1}
    return sorted(sources.values(), key=lambda s: (s.name, s.sha256 if s.name in by_content else ""))


def one(name: str) -> list[Source]:
    """What a single name stands for."""
    if name.partition(":")[0] == "tinyworld" and not Path(name).exists():
        seed = name.partition(":")[2] or "0"
        if not seed.isdecimal():
            raise BertGPTError("BG211", f"{name} is no world", hint="tinyworld, or tinyworld:SEED with a whole number")
        return [Source(name, 0, "tinyworld", seed=int(seed))]
    path = Path(name)
    if os.path.isdir(name):  # noqa: PTH112 - a Path of an impossible name raises
        files = [f for f in sorted(path.rglob("*")) if not any(p[0] == "." for p in f.relative_to(path).parts)]
        missing = f"the folder {name} holds no text that can be read"
    elif os.path.isfile(name):  # noqa: PTH113
        if not kind(path):
            known = ", ".join(FORMATS)
            cause = f"the kinds are {known}, each also with .gz or .zst"
            raise BertGPTError("BG211", f"{name} is of no known kind", cause=cause)
        files, missing = [path], ""
    else:
        found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - names may be absolute
        files = [Path(file) for file in found]
        missing = f"nothing matches {quoted(name)}"
    files = [file for file in files if kind(file) and file.is_file()]
    if not files:
        known_names = [file.name for file in path.parent.glob("*")] if os.path.isdir(path.parent) else []  # noqa: PTH112
        near = did_you_mean(path.name, [known for known in known_names if known != path.name])
        raise BertGPTError(
            "BG211", missing, cause=f"looked in {Path.cwd()}", hint=near or did_you_mean(name, ["tinyworld"])
        )
    return [described(file) for file in files]


def kind(path: Path) -> tuple[str, str | None] | None:
    """The format and compression that a file's name tells."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    stem = path.with_suffix("") if compression else path
    format_ = FORMATS.get(stem.suffix.lower())
    return (format_, compression) if format_ else None


def described(path: Path) -> Source:
    """A file with its size and kind."""
    format_, compression = kind(path) or ("", None)
    try:
        return Source(path.name, path.stat().st_size, format_, compression, str(path))
    except OSError as error:
        raise BertGPTError("BG313", "this file cannot be read", path=str(path), cause=error.strerror) from None
