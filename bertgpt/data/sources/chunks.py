"""What readers have in common: chunks of documents, the policy for bad data, files opened however compressed."""

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

Locator = Callable[[int], str]  # where document i of a chunk stands: FILE:LINE, or as near as can be said


@dataclass(frozen=True)
class Chunk:
    """Some documents as they stand in a source; `absent` are those that are no text at all."""

    texts: DocumentBatch
    place: Locator
    absent: frozenset[int] = frozenset()

    @classmethod
    def of(cls, documents: Sequence[bytes | None], place: Locator) -> "Chunk":
        """Documents one by one, None where there is no text."""
        absent = frozenset(i for i, document in enumerate(documents) if document is None)
        return cls(DocumentBatch.of([document or b"" for document in documents]), place, absent)


class BadDataPolicy:
    """What to do with bad data, and how much of it there was."""

    def __init__(self, on_error: str) -> None:
        self.on_error = on_error
        self.counts: Counter[str] = Counter()

    def handle(self, what: str, error: BertGPTError) -> None:
        """Count something that is left out, or stop."""
        if self.on_error == "stop":
            error.hint = error.hint or "--on-error skip leaves such documents out and counts them"
            raise error
        self.counts[what] += 1


def open_bytes(source: Source, end: int | None = None) -> IO[bytes]:
    """The bytes of a file, decompressed; of one that is elsewhere, little beyond `end` is fetched."""
    file: IO[bytes]
    if source.is_remote:
        file = io.BufferedReader(open_source(source, [] if end is None else [(0, end)]), BUFFER)
    else:
        file = open(source.path, "rb", BUFFER)  # noqa: PTH123, SIM115
    if source.compression is None:
        return file
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file), source.compression), BUFFER)


def unreadable_error(source: Source, error: Exception) -> BertGPTError:
    """A file that breaks off, or is not what its name says."""
    return BertGPTError("BG313", "this file cannot be read", path=source.path, cause=str(error).split("\n")[0][:200])


def reject_utf16(first: bytes, source: Source) -> None:
    """Text in UTF-16 would pass as text full of NULs."""
    if first in (b"\xff\xfe", b"\xfe\xff"):
        raise BertGPTError(
            "BG311",
            "this looks like UTF-16",
            path=source.path,
            hint=f"iconv -f UTF-16 -t UTF-8 {source.name} > utf8.txt",
        )


def missing_column(column: str, columns: Iterable[str], place: str, option: str = "--text-column") -> BertGPTError:
    """A column is not there; an option names another."""
    names = [str(name) for name in columns]
    return BertGPTError(
        "BG212",
        f"there is no column {column}",
        path=place,
        cause=f"the columns are {', '.join(names)}",
        hint=did_you_mean(column, names) or f"name one with {option}",
    )
