"""How weights are moved: which of them decay, by which optimizer, and how fast as a pure function of the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bertgpt.training.adamw import AdamW
from bertgpt.training.muon import Muon

WSD_DECAY_FRACTION = 0.2  # the share of a warmup-stable-decay run in which the rate falls
UNKNOWN_STEPS = 1 << 40  # steps of a run whose end is not known yet


@dataclass(frozen=True)
class LRSchedule:
    """The learning rate of each step, counted from 0."""

    kind: str  # cosine, linear, wsd or constant
    steps: int
    warmup: int
    peak: float
    min_ratio: float  # what is left at the end, as a share of the peak

    def lr(self, step: int) -> float:
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
            left = min(1.0, (1 - done) / WSD_DECAY_FRACTION)
        return self.peak * (self.min_ratio + (1 - self.min_ratio) * left)


class Optimizers:
    """All of a model's weights, each with one optimizer: AdamW alone, or Muon for the matrices inside blocks.

    | weights                                   | adamw | muon  | decay |
    |-------------------------------------------|-------|-------|-------|
    | matrices of blocks                        | AdamW | Muon  | yes   |
    | embeddings, heads                         | AdamW | AdamW | yes   |
    | biases, norms                             | AdamW | AdamW | no    |

    Muon's steps are as long as AdamW's, so that one rate may serve both; small models of much text want less of it for
    their embeddings.
    """

    def __init__(
        self,
        model: nn.Module,
        kind: str,
        decay: float,
        beta2: float,
        around: float = 1.0,
        share: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        """`share` says what part of the rate each weight has, by its name; `around` that of embeddings beside Muon."""
        self.names: dict[Tensor, str] = {w: name for name, w in model.named_parameters() if w.requires_grad}
        matrices, others, vectors = split_parameters(model)
        if kind == "adamw":
            matrices, others = [], matrices + others
        shares = {weight: share(name) for weight, name in self.names.items()}
        less = {weight: share * (around if matrices else 1.0) for weight, share in shares.items()}
        groups = [*param_groups(others, less, decay), *param_groups(vectors, shares, 0.0)]
        self.optimizers: list[AdamW | Muon] = [AdamW(groups, beta2)]
        if matrices:
            self.optimizers.append(Muon(param_groups(matrices, shares, decay)))

    def step(self, rate: float) -> None:
        """Move all weights, and forget their gradients."""
        for optimizer in self.optimizers:
            for group in optimizer.groups:
                group["lr"] = rate * group["share"]
            optimizer.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Drop gradients, whether they were used or not."""
        for weight in self.names:
            weight.grad = None

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """What is remembered of each weight, by its name; nothing before the first step."""
        return {self.names[weight]: state for optimizer in self.optimizers for weight, state in optimizer.state.items()}

    def load_state_dict(self, moments: dict[str, dict[str, Tensor]]) -> None:
        """Put that back, in place of what there is."""
        for optimizer in self.optimizers:
            optimizer.state.clear()
            for group in optimizer.groups:
                known = {w: moments[self.names[w]] for w in group["params"] if self.names[w] in moments}
                optimizer.state.update(
                    {w: {key: value.to(w.device) for key, value in state.items()} for w, state in known.items()}
                )


def param_groups(weights: list[nn.Parameter], shares: dict[Tensor, float], decay: float) -> list[dict[str, Any]]:
    """Weights that have the same share of the rate together."""
    found: dict[float, list[nn.Parameter]] = {}
    for weight in weights:
        found.setdefault(shares[weight], []).append(weight)
    return [{"params": some, "share": share, "weight_decay": decay} for share, some in found.items()]


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Matrices of blocks, other matrices, and vectors: each weight that moves is in one of them."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    vectors = [weight for _, weight in named if weight.ndim < 2]
    matrices = [weight for name, weight in named if weight.ndim == 2 and "blocks." in name]
    others = [weight for name, weight in named if weight.ndim == 2 and "blocks." not in name]
    assert len(matrices) + len(others) + len(vectors) == len(named), "each weight is in one group"
    return matrices, others, vectors


class GradScaler:
    """What fp16 losses are multiplied by, so that small gradients are not lost: halved when it was too much, doubled
    when it was not for long. One, always, in other precisions."""

    patience = 2000  # steps

    def __init__(self, precision: str) -> None:
        self.moves = precision == "fp16"
        self.value, self.growth_tracker = (65536.0, 0) if self.moves else (1.0, 0)

    def update(self, finite: bool) -> bool:
        """Learn from a step; whether one that is not finite is the scale's fault, which then is smaller."""
        if not self.moves:
            return False
        self.growth_tracker = self.growth_tracker + 1 if finite else 0
        if not finite:
            self.value /= 2
            return self.value >= 1.0
        if self.growth_tracker == self.patience:
            self.value, self.growth_tracker = self.value * 2, 0
        return False
