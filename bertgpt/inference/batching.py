"""Batches of sequences of similar length, to waste little on padding."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bertgpt.utils import console

MAX_BATCH_TOKENS = 8192  # about the most tokens computed at once


def batches_by_length(lengths: Sequence[int], label: str) -> Iterator[list[int]]:
    """Yield the indices of each batch, longest sequences first, so that an out-of-memory error comes at once.

    Shows progress, in tokens, under a label.
    """
    progress = console.Progress(label, sum(lengths), in_bytes=False)
    done = 0
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    start = 0
    while start < len(order):
        batch_size = max(1, MAX_BATCH_TOKENS // max(1, lengths[order[start]]))
        batch = order[start : start + batch_size]
        yield batch
        start += batch_size
        done += sum(lengths[i] for i in batch)
        progress.update(done)
    progress.end()


def pad(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-padded ids (B, T), and the lengths (B,)."""
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    input_ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.long)
    return input_ids.to(device), torch.tensor(lengths).to(device)


def padding_document_ids(input_ids: Tensor, lengths: Tensor) -> Tensor | None:
    """Document ids (B, T) that keep attention away from padding: 0 for text, 1 for padding; None without padding."""
    if int(lengths.min()) == input_ids.size(1):
        return None
    return (torch.arange(input_ids.size(1), device=input_ids.device) >= lengths[:, None]).long()
