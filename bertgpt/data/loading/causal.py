"""Causal language model dataset: consecutive windows of the token stream of all shards, across document boundaries."""

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
    """Windows of the token stream: T inputs, and the targets one position later."""

    input_ids: Array  # (B, T + 1), in the dtype of the shards; filled with eos_id beyond the end of the stream
    num_targets: Array  # (B,): T, or fewer at the end of the stream


class CausalDataset:
    """The windows of a split: the targets of window i are the tokens i * T + 1 to (i + 1) * T of the stream."""

    def __init__(self, folder: Path, split: str, seq_len: int) -> None:
        manifest, tokenizer = open_artifact(folder, "shards")
        self.tokens = [TokenFile(folder / name).flat for name in split_files(manifest, split)]  # memory-mapped
        self.file_offsets = np.cumsum([0, *map(len, self.tokens)])  # where each file begins in the stream
        self.seq_len, self.eos_id = seq_len, tokenizer.eos_id
        self.num_targets = max(int(self.file_offsets[-1]) - 1, 0)

    def __len__(self) -> int:
        return -(-self.num_targets // self.seq_len)

    def batch(self, indices: NDArray[np.int64], epochs: NDArray[np.int64]) -> CausalBatch:
        """The windows of these indices; they are the same in each epoch."""
        width = self.seq_len + 1
        input_ids = np.empty((len(indices), width), self.tokens[0].dtype)
        starts = indices * self.seq_len
        files = np.searchsorted(self.file_offsets, starts, side="right") - 1
        offsets = (starts - self.file_offsets[files]).tolist()
        for row, file, offset in zip(input_ids, files.tolist(), offsets, strict=True):
            tokens = self.tokens[file][offset : offset + width]
            row[: len(tokens)] = tokens
            if len(tokens) < width:
                self.fill(row[len(tokens) :], file + 1)
        return CausalBatch(input_ids, np.minimum(self.num_targets - starts, self.seq_len))

    def fill(self, rest: NDArray[Any], file: int) -> None:
        """Fill the rest of a window from the following files, and with eos_id after the last one."""
        for file_tokens in self.tokens[file:]:
            tokens = file_tokens[: len(rest)]
            rest[: len(tokens)] = tokens
            rest = rest[len(tokens) :]
        rest[:] = self.eos_id
