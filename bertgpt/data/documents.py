"""A batch of documents: their UTF-8 bytes one after the other, and where each begins.

Batches stay so from the reader to the encoder, since what is true of every document can be found out for all at once.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPACES = np.isin(np.arange(256), list(b"\t\n\v\f\r\x1c\x1d\x1e\x1f \xc2\xe1\xe2\xe3"))  # how white space may begin


@dataclass(frozen=True)
class DocumentBatch:
    """Document i is `data[offsets[i]:offsets[i + 1]]`."""

    data: bytes
    offsets: NDArray[np.int64]  # (documents + 1,)

    @classmethod
    def of(cls, documents: Sequence[bytes]) -> "DocumentBatch":
        """Documents put together."""
        sizes = np.fromiter(map(len, documents), np.int64, len(documents))
        return cls(b"".join(documents), np.concatenate([np.zeros(1, np.int64), sizes.cumsum()]))

    @classmethod
    def of_column(cls, column: Any) -> "DocumentBatch":
        """A column of text or bytes in Arrow form, without nulls."""
        wide = str(column.type).startswith("large_")
        kind = np.dtype(np.int64 if wide else np.int32)
        _, places, content = column.buffers()
        if places is None or not len(column):
            return cls.of([])
        offsets = np.frombuffer(places, kind, len(column) + 1, kind.itemsize * column.offset).astype(np.int64)
        first, last = int(offsets[0]), int(offsets[-1])
        return cls(content.slice(first, last - first).to_pybytes() if last > first else b"", offsets - first)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> bytes:
        return self.data[self.offsets[i] : self.offsets[i + 1]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """The bytes of each document."""
        return np.diff(self.offsets)

    @cached_property
    def documents(self) -> list[bytes]:
        """Each document by itself."""
        places = self.offsets.tolist()
        return [self.data[start:stop] for start, stop in itertools.pairwise(places)]

    def head(self, size: int) -> "DocumentBatch":
        """The first documents, until they are so many bytes."""
        few = min(len(self), int(np.searchsorted(self.offsets[1:], size)) + 1)
        return DocumentBatch(self.data[: self.offsets[few]], self.offsets[: few + 1])

    def select(self, chosen: NDArray[np.bool_]) -> "DocumentBatch":
        """Some of the documents."""
        return DocumentBatch.of([self[i] for i in np.flatnonzero(chosen).tolist()])

    def hashes(self) -> bytes:
        """By which a document is known, 16 bytes of each: blake2b of its own."""
        places = self.offsets.tolist()
        pairs = itertools.pairwise(places)
        return b"".join([blake2b(self.data[start:stop], digest_size=16).digest() for start, stop in pairs])

    def count(self, words: Sequence[bytes]) -> int:
        """How often these occur within documents."""
        if not any(word[:1] in self.data for word in words):  # a single byte is looked for ten times faster
            return 0
        pattern = re.compile(b"|".join(map(re.escape, words)))
        if pattern.search(self.data) is None:
            return 0
        return sum(len(pattern.findall(document)) for document in self.documents)  # none reaches into the next

    def all_valid(self, longest: int) -> bool:
        """Whether every document is UTF-8, holds something, and is not too long."""
        if not len(self) or int(self.sizes.min()) == 0 or int(self.sizes.max()) > longest:
            return False
        first = np.frombuffer(self.data, np.uint8)[self.offsets[:-1]]
        if (first & 0xC0 == 0x80).any():  # a document that begins within a character
            return False
        try:
            self.data.decode()  # what is wrong with a part is wrong with the whole
        except UnicodeDecodeError:
            return False
        return not any(self[i].decode().isspace() for i in np.flatnonzero(SPACES[first]).tolist())
