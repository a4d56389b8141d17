"""Causal samples: windows of the stream of all shards, whatever documents they cut."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertgpt.data.format import TokenFile
from bertgpt.data.loading.open import open_artifact, split_files
from bertgpt.data.loading.rows import Array


@dataclass(frozen=True)
class CausalBatch:
    """Windows of the stream: the ids and the one after them. What is beyond the end of the stream is not scored."""

    ids: Array  # (rows, T + 1), as stored
    scored: Array  # (rows,): how many targets there are


class CausalDataset:
    """The windows of a split: window i has the targets i * T to (i + 1) * T."""

    def __init__(self, folder: Path, split: str, length: int) -> None:
        manifest, tokenizer = open_artifact(folder, "shards")
        self.flats = [TokenFile(folder / name).flat for name in split_files(manifest, split)]
        self.first = np.cumsum([0, *map(len, self.flats)])  # of each file in the stream
        self.length, self.end = length, tokenizer.eos_id
        self.targets = max(int(self.first[-1]) - 1, 0)

    def __len__(self) -> int:
        return -(-self.targets // self.length)

    def batch(self, samples: NDArray[np.int64], epochs: NDArray[np.int64]) -> CausalBatch:
        """Some windows; an epoch does not change them."""
        width = self.length + 1
        ids = np.empty((len(samples), width), self.flats[0].dtype)
        starts = samples * self.length
        homes = np.searchsorted(self.first, starts, side="right") - 1
        places = (starts - self.first[homes]).tolist()
        for row, home, place in zip(ids, homes.tolist(), places, strict=True):
            some = self.flats[home][place : place + width]
            row[: len(some)] = some
            if len(some) < width:
                self.fill(row[len(some) :], home + 1)
        return CausalBatch(ids, np.minimum(self.targets - starts, self.length))

    def fill(self, rest: NDArray[Any], home: int) -> None:
        """The rest of a window from the files that follow, or the end id where there is none."""
        for flat in self.flats[home:]:
            some = flat[: len(rest)]
            rest[: len(some)] = some
            rest = rest[len(some) :]
        rest[:] = self.end
