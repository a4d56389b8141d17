"""Optimizers, learning-rate schedule and gradient scaling."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from bertgpt.training.adamw import AdamW
from bertgpt.training.muon import Muon
from bertgpt.utils import console

WSD_DECAY_FRACTION = 0.2  # of a warmup-stable-decay run, at its end, in which the learning rate decays
UNKNOWN_STEPS = 1 << 40  # total steps of a run with a time limit, until its speed is known


@dataclass(frozen=True)
class LRSchedule:
    """Learning-rate schedule: a pure function of the step, which is counted from 0."""

    kind: str  # cosine, linear, wsd or constant
    steps: int
    warmup_steps: int
    peak_lr: float
    min_ratio: float  # final learning rate / peak

    def warn_if_short(self) -> None:
        """Tell that the peak is never reached, if a run with a time budget ends during warmup."""
        if self.warmup_steps > self.steps:
            peak = f"peak lr {self.peak_lr:g} is never reached"
            console.info(f"warmup ({self.warmup_steps:,} steps) does not end within {self.steps:,} steps; {peak}")

    def with_fitting_warmup(self) -> "LRSchedule":
        """The schedule with a warmup of a tenth of the run, if the run would end during warmup."""
        if self.warmup_steps <= self.steps:
            return self
        shorter = replace(self, warmup_steps=-(-self.steps // 10))
        reason = f"the run has {self.steps:,}, and would never reach its peak learning rate"
        console.info(f"warmup shortened from {self.warmup_steps:,} to {shorter.warmup_steps:,} steps: {reason}")
        return shorter

    def lr(self, step: int) -> float:
        """Linear warmup, then the chosen decay."""
        if step < self.warmup_steps:
            return self.peak_lr * (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        if self.kind == "constant":
            factor = 1.0
        elif self.kind == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * progress))
        elif self.kind == "linear":
            factor = 1 - progress
        else:
            factor = min(1.0, (1 - progress) / WSD_DECAY_FRACTION)
        return self.peak_lr * (self.min_ratio + (1 - self.min_ratio) * factor)


class Optimizers:
    """AdamW for all trainable parameters, or Muon for the matrices of blocks and AdamW for the others.

    | parameters                | optimizer=adamw | optimizer=muon | weight decay |
    |---------------------------|-----------------|----------------|--------------|
    | matrices of blocks        | AdamW           | Muon           | yes          |
    | embeddings, heads         | AdamW           | AdamW          | yes          |
    | biases, norms             | AdamW           | AdamW          | no           |

    Muon's updates are scaled to the RMS of AdamW's, so that one learning rate serves both. Small models trained on many
    tokens want a lower rate for their embeddings: `embedding_lr_scale`.
    """

    def __init__(
        self,
        model: nn.Module,
        kind: str,
        weight_decay: float,
        beta2: float,
        embedding_lr_scale: float = 1.0,
        lr_scale: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        """`lr_scale` gives a factor of the learning rate by parameter name; `embedding_lr_scale` applies with Muon."""
        self.names: dict[Tensor, str] = {p: name for name, p in model.named_parameters() if p.requires_grad}
        matrices, others, vectors = split_parameters(model)
        if kind == "adamw":
            matrices, others = [], matrices + others
        lr_scales = {parameter: lr_scale(name) for parameter, name in self.names.items()}
        other_scales = {p: scale * (embedding_lr_scale if matrices else 1.0) for p, scale in lr_scales.items()}
        groups = [*param_groups(others, other_scales, weight_decay), *param_groups(vectors, lr_scales, 0.0)]
        self.optimizers: list[AdamW | Muon] = [AdamW(groups, beta2)]
        if matrices:
            self.optimizers.append(Muon(param_groups(matrices, lr_scales, weight_decay)))

    def step(self, lr: float) -> None:
        """Update all parameters, then drop their gradients."""
        for optimizer in self.optimizers:
            for group in optimizer.groups:
                group["lr"] = lr * group["lr_scale"]
            optimizer.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.names:
            parameter.grad = None

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Optimizer state (moments) by parameter name; empty before the first step."""
        return {self.names[p]: state for optimizer in self.optimizers for p, state in optimizer.state.items()}

    def moments(self) -> list[Tensor]:
        """All tensors of the optimizer state."""
        return [value for state in self.state_dict().values() for value in state.values()]

    def load_state_dict(self, state_dict: dict[str, dict[str, Tensor]]) -> None:
        """Replace the optimizer state."""
        for optimizer in self.optimizers:
            optimizer.state.clear()
            for group in optimizer.groups:
                for parameter in group["params"]:
                    state = state_dict.get(self.names[parameter])
                    if state is not None:
                        optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}


def param_groups(
    parameters: list[nn.Parameter], lr_scales: dict[Tensor, float], weight_decay: float
) -> list[dict[str, Any]]:
    """One parameter group for each factor of the learning rate."""
    by_scale: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_scale.setdefault(lr_scales[parameter], []).append(parameter)
    return [{"params": params, "lr_scale": scale, "weight_decay": weight_decay} for scale, params in by_scale.items()]


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters: matrices of blocks, other matrices (embeddings, heads), and vectors (biases, norms)."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    vectors = [parameter for _, parameter in named if parameter.ndim < 2]
    matrices = [parameter for name, parameter in named if parameter.ndim == 2 and "blocks." in name]
    others = [parameter for name, parameter in named if parameter.ndim == 2 and "blocks." not in name]
    assert len(matrices) + len(others) + len(vectors) == len(named), "every parameter must be in exactly one group"
    return matrices, others, vectors


class GradScaler:
    """Loss scaling for fp16, so that small gradients do not underflow; a scale of 1 in other precisions.

    The scale is halved after a non-finite step, and doubled after `growth_interval` finite ones in a row.
    """

    growth_interval = 2000  # steps

    def __init__(self, precision: str) -> None:
        self.enabled = precision == "fp16"
        self.scale, self.growth_tracker = (65536.0, 0) if self.enabled else (1.0, 0)

    def update(self, finite: bool) -> bool:
        """Adapt the scale to a step; True if the step overflowed and a lower scale may fix it."""
        if not self.enabled:
            return False
        self.growth_tracker = self.growth_tracker + 1 if finite else 0
        if not finite:
            self.scale /= 2
            return self.scale >= 1.0
        if self.growth_tracker == self.growth_interval:
            self.scale, self.growth_tracker = self.scale * 2, 0
        return False
