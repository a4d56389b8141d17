"""Validation during training: the loss of the val split, always over the same rows with the same masks."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bertgpt.data.loading.causal import CausalDataset
from bertgpt.data.loading.loader import Dataset
from bertgpt.training.callback import TrainerView
from bertgpt.training.device import to_tensors
from bertgpt.training.metrics import SUM_INDEX, MetricAccumulator
from bertgpt.utils import console

TOKENS_PER_BATCH = 16_384  # independent of the training batch size, so that the metrics do not depend on it


@dataclass(frozen=True)
class ValidationCallback:
    """Validation loss, accuracy and bits per byte of a split."""

    datasets: Sequence[Dataset]
    every: int
    length: int  # of rows
    max_rows: int  # of each dataset, from its start: shards are in hash order, so the first rows are a random sample
    text_bytes: int = 0  # bytes of text that the causal targets stand for; 0 if unknown
    name: str = "val"

    @torch.no_grad()
    def __call__(self, view: TrainerView) -> dict[str, Any] | None:
        """Metrics of the split; None if interrupted by a stop signal."""
        view.model.eval()
        metric_sums = MetricAccumulator(view.device)
        batch_size = max(1, TOKENS_PER_BATCH // self.length)
        step_rows = batch_size * view.dist.world_size
        progress = console.Progress("validating", sum(map(self.num_rows, self.datasets)), in_bytes=False)
        for done, dataset, start in self.batches(step_rows):
            if view.should_stop():
                return None
            progress.update(done)
            first = start + batch_size * view.dist.rank
            rows = np.arange(first, max(first, min(first + batch_size, self.num_rows(dataset))))
            if len(rows):
                batch = dataset.batch(rows, np.zeros_like(rows))
                counts = view.objectives[type(batch)].count_targets(batch)
                metric_sums.add(view.compute_loss(to_tensors(batch, pin=False)), counts)
        progress.end()
        view.dist.all_reduce(metric_sums.sums)
        metrics = metric_sums.metrics(view.term_weights)
        if self.text_bytes and "clm_loss" in metrics:
            nats = float(metric_sums.sums[SUM_INDEX["clm_loss"]])
            metrics["bits_per_byte"] = nats / math.log(2) / self.text_bytes
        return metrics

    def num_rows(self, dataset: Dataset) -> int:
        """Number of rows of a dataset that are evaluated."""
        return min(len(dataset), self.max_rows)

    def batches(self, step_rows: int) -> Iterator[tuple[int, Dataset, int]]:
        """Rows done so far, the dataset, and its first row, of the batches that all ranks evaluate together."""
        done = 0
        for dataset in self.datasets:
            for start in range(0, self.num_rows(dataset), step_rows):
                yield done + start, dataset, start
            done += self.num_rows(dataset)


def target_bytes(dataset: CausalDataset, rows: int, token_bytes: NDArray[np.int32]) -> int:
    """Bytes of text that the targets of the first rows stand for, from the bytes of each token id."""
    total, batch_size = 0, 64
    for start in range(0, min(rows, len(dataset)), batch_size):
        indices = np.arange(start, min(start + batch_size, rows, len(dataset)))
        batch = dataset.batch(indices, np.zeros_like(indices))
        targets = batch.input_ids[:, 1:]
        total += int(token_bytes[targets][np.arange(targets.shape[1]) < batch.num_targets[:, None]].sum())
    return total
