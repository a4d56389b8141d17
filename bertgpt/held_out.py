"""Looking at held-out rows while a model is trained: always all of them, and always with the same masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bertgpt.runtime import tensors
from bertgpt.shards.loader import Samples
from bertgpt.tally import PLACE, Tally
from bertgpt.trainer import Trainer

ROWS = 64  # at once, whatever rows a step has: so that figures do not depend on that


@dataclass(frozen=True)
class HeldOut:
    """The loss of a split, and what goes with it."""

    samples: Sequence[Samples]
    every: int
    text_bytes: int = 0  # of the split, where it is scored as a whole
    name: str = "val"

    @torch.no_grad()
    def __call__(self, trainer: Trainer) -> dict[str, Any] | None:
        """Nothing, if somebody asks to stop meanwhile."""
        trainer.model.eval()
        tally, group = Tally(trainer.device), trainer.group
        for samples in self.samples:
            for start in range(0, len(samples), ROWS * group.world):
                if trainer.stopping():
                    return None
                mine = start + ROWS * group.rank
                numbers = np.arange(mine, max(mine, min(mine + ROWS, len(samples))))
                if len(numbers):
                    part = samples.batch(numbers, np.zeros_like(numbers))
                    counts = trainer.objectives[type(part)].counts(part)
                    tally.add(trainer.terms(tensors(part, pin=False)), counts)
        group.add(tally.values)
        metrics = tally.metrics(trainer.weights)
        if self.text_bytes and "causal_loss" in metrics:
            nats = float(tally.values[PLACE["causal_loss"]])
            metrics["bits_per_byte"] = nats / math.log(2) / self.text_bytes
        return metrics
