"""Looking at held-out rows while a model is trained: always all of them, and always with the same masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bertgpt.data.loading.causal import CausalDataset
from bertgpt.data.loading.loader import Dataset
from bertgpt.trainer import Trainer
from bertgpt.training.device import to_tensors
from bertgpt.training.metrics import SUM_INDEX, MetricAccumulator
from bertgpt.utils import console

TOKENS_PER_BATCH = 16_384  # ids, whatever rows a step has: so that figures do not depend on that


@dataclass(frozen=True)
class ValidationCallback:
    """The loss of a split, and what goes with it."""

    samples: Sequence[Dataset]
    every: int
    length: int  # of rows
    max_rows: int  # rows of each, the first ones: shards are in the order of a hash, so these are as good as any
    text_bytes: int = 0  # that causal targets stand for, where that is known
    name: str = "val"

    @torch.no_grad()
    def __call__(self, trainer: Trainer) -> dict[str, Any] | None:
        """Nothing, if somebody asks to stop meanwhile."""
        trainer.model.eval()
        several = max(1, TOKENS_PER_BATCH // self.length)
        tally, group = MetricAccumulator(trainer.device), trainer.dist
        rows = [min(len(samples), self.max_rows) for samples in self.samples]
        progress = console.Progress("looking at held-out rows", sum(rows), of_bytes=False)
        for samples, end, before in zip(self.samples, rows, (0, *rows), strict=False):
            for start in range(0, end, several * group.world):
                if trainer.should_stop():
                    return None
                progress.update(before + start)
                mine = start + several * group.rank
                numbers = np.arange(mine, max(mine, min(mine + several, end)))
                if len(numbers):
                    part = samples.batch(numbers, np.zeros_like(numbers))
                    counts = trainer.objectives[type(part)].counts(part)
                    tally.add(trainer.compute_loss(to_tensors(part, pin=False)), counts)
        progress.end()
        group.all_reduce(tally.values)
        metrics = tally.metrics(trainer.term_weights)
        if self.text_bytes and "clm_loss" in metrics:
            nats = float(tally.values[SUM_INDEX["clm_loss"]])
            metrics["bits_per_byte"] = nats / math.log(2) / self.text_bytes
        return metrics


def target_bytes(windows: CausalDataset, rows: int, lengths: NDArray[np.int32]) -> int:
    """How much text the targets of the first windows stand for, by the bytes of each id."""
    total, several = 0, 64
    for start in range(0, min(rows, len(windows)), several):
        numbers = np.arange(start, min(start + several, rows, len(windows)))
        part = windows.batch(numbers, np.zeros_like(numbers))
        targets = part.ids[:, 1:]
        total += int(lengths[targets][np.arange(targets.shape[1]) < part.scored[:, None]].sum())
    return total
