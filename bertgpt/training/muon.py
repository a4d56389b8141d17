"""Muon: steps along the nearest orthogonal matrix (Jordan et al., 2024), as long as AdamW's (Liu et al., 2025).

torch has it too, but makes its products in bf16 wherever it runs. A CPU without instructions for that emulates them,
and then takes forty times as long (benchmarks/README.md).
"""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from bertgpt.ops.kernels import has_bf16

MOMENTUM = 0.95
NS_STEPS = 5
NS_COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # of x, x^3 and x^5: singular values between 0 and 1 come near 1 in five rounds
ADAMW_RMS = 0.2  # the root mean square of AdamW's steps, about


class Muon:
    """For matrices of blocks only."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self.groups = groups
        self.state: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    @torch.no_grad()
    def step(self) -> None:
        """Every matrix that has a gradient forgets a little, then moves."""
        for group in self.groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                momentum = state["momentum_buffer"].lerp_(weight.grad, 1 - MOMENTUM)
                direction = orthogonalize(weight.grad.lerp(momentum, MOMENTUM))  # a look ahead (Nesterov, 1983)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(direction, alpha=-group["lr"] * ADAMW_RMS * math.sqrt(max(weight.shape)))


def orthogonalize(matrix: Tensor) -> Tensor:
    """The nearest matrix whose singular values are all 1, roughly: an odd polynomial moves each of them there.

    What is done to x = U S V^T this way is done to S alone (Newton and Schulz), without ever taking it apart.
    """
    x = matrix.bfloat16() if has_bf16(matrix.device) else matrix
    wide = x.size(0) <= x.size(1)
    x = x if wide else x.T
    x = x / x.norm().clamp(min=1e-7)
    # below 1.5 the products of squares are more; and bf16 has too few digits for squares of singular values
    small = x.dtype == torch.float32 and x.size(1) > 1.5 * x.size(0)
    found = newton_schulz_gram(x) if small else newton_schulz(x)
    return (found if wide else found.T).to(matrix.dtype)


def newton_schulz(x: Tensor) -> Tensor:
    """x <- (a + b G + c G^2) x, where G = x x^T; x is (m, n)."""
    a, b, c = NS_COEFFICIENTS
    for _ in range(NS_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def newton_schulz_gram(x: Tensor) -> Tensor:
    """The same without x until the end: what multiplies it in each round, and the G that this leaves, are (m, m)."""
    a, b, c = NS_COEFFICIENTS
    gram = x @ x.T
    factor = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for last in range(NS_STEPS - 1, -1, -1):
        step = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        step.diagonal().add_(a)
        factor = step @ factor
        gram = step @ gram @ step if last else gram
    return factor @ x
