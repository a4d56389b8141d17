"""Rows that grow: the logits of what comes next, by keys and values that are kept from what was computed before.

A row that has filled the window is cut to its last half, and goes on: what lies further back is forgotten. So the
window slides in leaps, at places that depend on the row alone, and a leap costs what reading half a window costs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bertgpt.model import KVCache, Transformer


class Decoder:
    """Some rows, and what a model remembers of them."""

    def __init__(self, model: Transformer, rows: Sequence[Sequence[int]], window: int, room: int) -> None:
        self.model, self.window, self.device = model, window, model.token_embedding.weight.device
        self.rows = [list(row[-window:]) for row in rows]
        self.max_new_tokens = room  # for how many more ids

    @torch.inference_mode()
    def prefill(self) -> Tensor:
        """All rows from their beginnings: the logits of what comes next, (B, V)."""
        lengths = torch.tensor([len(row) for row in self.rows], device=self.device)
        longest = int(lengths.max())
        self.cache = KVCache(
            self.model.config,
            len(self.rows),
            min(self.window, longest + self.max_new_tokens),
            self.model.token_embedding.weight,
        )
        fill = [[0] * (longest - len(row)) for row in self.rows]  # before each, so that all end at the same place
        ids = torch.tensor([before + row for before, row in zip(fill, self.rows, strict=True)], device=self.device)
        self.documents, positions = None, None
        if int(lengths.min()) < longest:
            positions = torch.arange(longest, device=self.device) - (longest - lengths)[:, None]  # (B, T)
            self.documents = (positions >= 0).long()
            positions = positions.clamp(min=0)
        return self.next_logits(ids, self.documents, positions)

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """One more id for each row, (B,): the logits of what comes after it, (B, V)."""
        for row, i in zip(self.rows, ids.tolist(), strict=True):
            row.append(i)
        self.max_new_tokens -= 1
        if self.cache.length == self.cache.capacity:
            self.rows = [row if len(row) <= self.window else row[-(self.window // 2) :] for row in self.rows]
            return self.prefill()
        if self.documents is None:
            return self.next_logits(ids[:, None], None, None)
        positions = torch.tensor([[len(row) - 1] for row in self.rows], device=self.device)
        return self.next_logits(ids[:, None], torch.ones_like(positions), positions)

    def next_logits(self, ids: Tensor, documents: Tensor | None, positions: Tensor | None) -> Tensor:
        """Logits behind the last of some ids (B, T)."""
        hidden = self.model(ids, causal=True, document_ids=documents, position_ids=positions, cache=self.cache)
        logits: Tensor = self.model.logits(hidden[:, -1]).float()
        return logits

    def select_rows(self, numbers: list[int]) -> None:
        """Forget all rows but these."""
        self.rows = [self.rows[number] for number in numbers]
        self.cache.select_rows(torch.tensor(numbers, device=self.device))
