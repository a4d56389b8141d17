"""Callbacks: what runs every few steps beside training, and the read-only view of the trainer that it gets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from bertgpt.training.distributed import DistContext
from bertgpt.training.objectives import LossTerm, Objective


@dataclass(frozen=True)
class TrainerView:
    """Read-only view of a trainer after a step."""

    model: Any  # a Transformer or a SequenceClassifier
    step: int  # steps taken so far
    dist: DistContext
    device: torch.device
    objectives: Mapping[type, Objective]  # by the type of batch
    term_weights: Mapping[str, float]  # of the loss terms; 1 by default
    compute_loss: Callable[[Any], dict[str, LossTerm]]  # of a batch on any device, in the precision of training
    should_stop: Callable[[], bool]  # whether any rank got a stop signal; every rank must call it


class Callback(Protocol):
    """Evaluates the model every few steps, without changing it."""

    @property
    def name(self) -> str:
        """The `split` of its lines in metrics.jsonl."""

    @property
    def every(self) -> int:
        """Interval in steps."""

    def __call__(self, view: TrainerView) -> dict[str, Any] | None:
        """Metrics to log, or None: nothing to log, or interrupted by a stop signal."""
