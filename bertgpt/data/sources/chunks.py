"""Shared by all readers: chunks of documents, the policy for bad data, opening compressed files."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import IO

from bertgpt.data.documents import DocumentBatch
from bertgpt.data.sources.remote import open_source
from bertgpt.data.sources.source import Source
from bertgpt.utils.errors import BertGPTError, did_you_mean

BUFFER = 1 << 20
BOM = b"\xef\xbb\xbf"

Locator = Callable[[int], str]  # location of document i of a chunk: FILE:LINE, or as close to it as is known


@dataclass(frozen=True)
class Chunk:
    """Documents as read from a source, before validation; those in `missing` have no text (null or not a string)."""

    documents: DocumentBatch
    locate: Locator
    missing: frozenset[int] = frozenset()

    @classmethod
    def from_list(cls, documents: Sequence[bytes | None], locate: Locator) -> "Chunk":
        """A chunk from single documents, None for a missing one."""
        missing = frozenset(i for i, document in enumerate(documents) if document is None)
        return cls(DocumentBatch.from_list([document or b"" for document in documents]), locate, missing)


class BadDataPolicy:
    """What to do with bad data (`--on-error` stop, skip or replace), and the counts of bad data so far."""

    def __init__(self, on_error: str) -> None:
        self.on_error = on_error
        self.counts: Counter[str] = Counter()

    def handle(self, reason: str, error: BertGPTError) -> None:
        """Raise the error if the policy is to stop; otherwise count it under `reason`."""
        if self.on_error == "stop":
            error.hint = error.hint or "--on-error skip drops such documents and counts them"
            raise error
        self.counts[reason] += 1


def open_bytes(source: Source, stop: int | None = None) -> IO[bytes]:
    """Open a file and decompress it; of a remote file, little beyond the byte `stop` is fetched."""
    file: IO[bytes]
    if source.is_remote:
        file = io.BufferedReader(open_source(source, [] if stop is None else [(0, stop)]), BUFFER)
    else:
        file = open(source.path, "rb", BUFFER)  # noqa: PTH123, SIM115
    if source.compression is None:
        return file
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file), source.compression), BUFFER)


def reject_utf16(first_bytes: bytes, source: Source) -> None:
    """Raise an error for UTF-16, which would be read as text full of NUL characters."""
    if first_bytes in (b"\xff\xfe", b"\xfe\xff"):
        hint = f"iconv -f UTF-16 -t UTF-8 {source.name} > utf8.txt"
        raise BertGPTError("BG311", "file looks like UTF-16", path=source.path, hint=hint)


def missing_column(column: str, columns: Iterable[str], location: str, option: str = "--text-column") -> BertGPTError:
    """The error for a missing column; `option` is the one that chooses the column."""
    names = [str(name) for name in columns]
    hint = did_you_mean(column, names) or f"choose a column with {option}"
    cause = f"the columns are {', '.join(names)}"
    return BertGPTError("BG212", f"no such column: {column}", path=location, cause=cause, hint=hint)
