"""A batch of documents: their UTF-8 bytes, concatenated, and the offset of each.

Documents stay in batches from the reader to the encoder, since most checks can be made for a whole batch at once.
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

WHITESPACE_STARTS = np.isin(np.arange(256), list(b"\t\n\v\f\r\x1c\x1d\x1e\x1f \xc2\xe1\xe2\xe3"))  # first UTF-8 bytes


@dataclass(frozen=True)
class DocumentBatch:
    """Document i is `data[offsets[i]:offsets[i + 1]]`."""

    data: bytes
    offsets: NDArray[np.int64]  # (documents + 1,)

    @classmethod
    def from_list(cls, documents: Sequence[bytes]) -> "DocumentBatch":
        """A batch from single documents."""
        sizes = np.fromiter(map(len, documents), np.int64, len(documents))
        return cls(b"".join(documents), np.concatenate([np.zeros(1, np.int64), sizes.cumsum()]))

    @classmethod
    def from_arrow(cls, column: Any) -> "DocumentBatch":
        """A batch from an Arrow array of strings or bytes without nulls."""
        is_large = str(column.type).startswith("large_")
        dtype = np.dtype(np.int64 if is_large else np.int32)
        _, offset_buffer, content = column.buffers()
        if offset_buffer is None or not len(column):
            return cls.from_list([])
        offsets = np.frombuffer(offset_buffer, dtype, len(column) + 1, dtype.itemsize * column.offset).astype(np.int64)
        start, stop = int(offsets[0]), int(offsets[-1])
        return cls(content.slice(start, stop - start).to_pybytes() if stop > start else b"", offsets - start)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> bytes:
        return self.data[self.offsets[i] : self.offsets[i + 1]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """The size of each document in bytes."""
        return np.diff(self.offsets)

    @cached_property
    def documents(self) -> list[bytes]:
        """The documents as a list."""
        return [self.data[start:stop] for start, stop in itertools.pairwise(self.offsets.tolist())]

    def head(self, num_bytes: int) -> "DocumentBatch":
        """The first documents, at least one, until they have `num_bytes` bytes or more."""
        count = min(len(self), int(np.searchsorted(self.offsets[1:], num_bytes)) + 1)
        return DocumentBatch(self.data[: self.offsets[count]], self.offsets[: count + 1])

    def select(self, mask: NDArray[np.bool_]) -> "DocumentBatch":
        """The documents where `mask` is True."""
        return DocumentBatch.from_list([self[i] for i in np.flatnonzero(mask).tolist()])

    def hashes(self) -> bytes:
        """The blake2b-128 hash of each document, 16 bytes each: its `doc_id`."""
        pairs = itertools.pairwise(self.offsets.tolist())
        return b"".join([blake2b(self.data[start:stop], digest_size=16).digest() for start, stop in pairs])

    def count_occurrences(self, words: Sequence[bytes]) -> int:
        """How often the words occur in the documents."""
        if not any(word[:1] in self.data for word in words):  # searching for a single byte is ten times faster
            return 0
        pattern = re.compile(b"|".join(map(re.escape, words)))
        if pattern.search(self.data) is None:
            return 0
        return sum(len(pattern.findall(document)) for document in self.documents)  # none spans two documents

    def all_valid(self, max_bytes: int) -> bool:
        """Whether every document is UTF-8, not blank, and not longer than `max_bytes`."""
        if not len(self) or int(self.sizes.min()) == 0 or int(self.sizes.max()) > max_bytes:
            return False
        first_bytes = np.frombuffer(self.data, np.uint8)[self.offsets[:-1]]
        if (first_bytes & 0xC0 == 0x80).any():  # a document that starts inside a character
            return False
        try:
            self.data.decode()  # invalid in one document is invalid in the concatenation
        except UnicodeDecodeError:
            return False
        return not any(self[i].decode().isspace() for i in np.flatnonzero(WHITESPACE_STARTS[first_bytes]).tolist())
