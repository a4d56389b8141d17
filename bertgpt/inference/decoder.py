"""Incremental decoding of a batch with a KV cache.

A row that fills the window is cut to its last half and read again; earlier tokens are forgotten. So the window slides
in jumps, at positions that depend on the row alone, and a jump costs as much as reading half a window.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bertgpt.model import KVCache, Transformer


class Decoder:
    """A batch of growing rows of ids, with the KV cache of a model."""

    def __init__(self, model: Transformer, rows: Sequence[Sequence[int]], window: int, max_new_tokens: int) -> None:
        self.model, self.window, self.device = model, window, model.device
        self.rows = [list(row[-window:]) for row in rows]
        self.max_new_tokens = max_new_tokens  # that are still to come

    @torch.inference_mode()
    def prefill(self) -> Tensor:
        """Fill the cache with all rows; returns the next-token logits (B, V)."""
        lengths = torch.tensor([len(row) for row in self.rows], device=self.device)
        longest = int(lengths.max())
        capacity = min(self.window, longest + self.max_new_tokens)
        self.cache = KVCache(self.model.config, len(self.rows), capacity, self.model.token_embedding.weight)
        padded = [[0] * (longest - len(row)) + row for row in self.rows]  # on the left, so that all rows end together
        input_ids = torch.tensor(padded, device=self.device)
        self.document_ids, position_ids = None, None
        if int(lengths.min()) < longest:
            position_ids = torch.arange(longest, device=self.device) - (longest - lengths)[:, None]  # (B, T)
            self.document_ids = (position_ids >= 0).long()
            position_ids = position_ids.clamp(min=0)
        return self.next_logits(input_ids, self.document_ids, position_ids)

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """Append one id to each row, (B,); returns the next-token logits (B, V)."""
        for row, i in zip(self.rows, ids.tolist(), strict=True):
            row.append(i)
        self.max_new_tokens -= 1
        if self.cache.length == self.cache.capacity:
            self.rows = [row if len(row) <= self.window else row[-(self.window // 2) :] for row in self.rows]
            return self.prefill()
        if self.document_ids is None:
            return self.next_logits(ids[:, None], None, None)
        position_ids = torch.tensor([[len(row) - 1] for row in self.rows], device=self.device)
        return self.next_logits(ids[:, None], torch.ones_like(position_ids), position_ids)

    def next_logits(self, input_ids: Tensor, document_ids: Tensor | None, position_ids: Tensor | None) -> Tensor:
        """Logits (B, V) after the last of the ids (B, T), which follow those in the cache."""
        hidden = self.model(
            input_ids, causal=True, document_ids=document_ids, position_ids=position_ids, cache=self.cache
        )
        logits: Tensor = self.model.logits(hidden[:, -1]).float()
        return logits

    def select_rows(self, indices: list[int]) -> None:
        """Keep only these rows, in this order."""
        self.rows = [self.rows[index] for index in indices]
        self.cache.select_rows(torch.tensor(indices, device=self.device))
