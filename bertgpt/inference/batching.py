"""Rows of unequal length as tensors: those of about the same length together, so that there is little to fill up."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

MAX_BATCH_TOKENS = 8192  # of rows that are computed together, at most about


def batches_by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The numbers of the rows of each batch, the longest first: what does not fit into memory fails at once."""
    left = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    start = 0
    while start < len(left):
        rows = max(1, MAX_BATCH_TOKENS // max(1, lengths[left[start]]))
        yield left[start : start + rows]
        start += rows


def pad(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids (B, T), filled up behind each row, and the lengths (B,)."""
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.long)
    return ids.to(device), torch.tensor(lengths).to(device)


def padding_document_ids(ids: Tensor, lengths: Tensor) -> Tensor | None:
    """(B, T): 1 for what fills up, which is a document of its own; nothing where no row is filled up."""
    if int(lengths.min()) == ids.size(1):
        return None
    return (torch.arange(ids.size(1), device=ids.device) >= lengths[:, None]).long()
