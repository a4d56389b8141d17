"""Muon (Jordan et al., 2024): orthogonalized momentum, with updates scaled to the size of AdamW's (Liu et al., 2025).

torch.optim.Muon computes its matrix products in bf16 everywhere. On a CPU without bf16 instructions they are emulated,
which takes forty times as long (benchmarks/README.md); this one computes in fp32 there.
"""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from bertgpt.ops.kernels import has_bf16

MOMENTUM = 0.95
NS_STEPS = 5
# Of x, x^3 and x^5: five steps bring singular values between 0 and 1 near 1.
NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ADAMW_RMS = 0.2  # typical root mean square of AdamW's updates


class Muon:
    """Muon with Nesterov momentum and decoupled weight decay, for the matrices of blocks only."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self.groups = groups
        self.state: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - MOMENTUM)
                update = orthogonalize(parameter.grad.lerp(momentum, MOMENTUM))  # Nesterov momentum
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * ADAMW_RMS * math.sqrt(max(parameter.shape)))


def orthogonalize(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, approximately: U V^T of the singular value decomposition U S V^T.

    Newton-Schulz: an odd matrix polynomial of X = U S V^T acts on the singular values S alone and moves them towards 1,
    without computing the decomposition.
    """
    x = matrix.bfloat16() if has_bf16(matrix.device) else matrix
    wide = x.size(0) <= x.size(1)
    x = x if wide else x.T
    x = x / x.norm().clamp(min=1e-7)
    # The Gram form needs fewer FLOPs from an aspect ratio of 1.5 on; it squares the singular values, for which bf16 has
    # too few digits.
    use_gram = x.dtype == torch.float32 and x.size(1) > 1.5 * x.size(0)
    x = newton_schulz_gram(x) if use_gram else newton_schulz(x)
    return (x if wide else x.T).to(matrix.dtype)


def newton_schulz(x: Tensor) -> Tensor:
    """Newton-Schulz iteration: x <- (a + b G + c G^2) x with G = x x^T, for x of shape (m, n)."""
    a, b, c = NS_COEFFICIENTS
    for _ in range(NS_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def newton_schulz_gram(x: Tensor) -> Tensor:
    """The same iteration on the Gram matrix and the accumulated factor of x, both (m, m); x enters only at the end."""
    a, b, c = NS_COEFFICIENTS
    gram = x @ x.T
    factor = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for remaining in range(NS_STEPS - 1, -1, -1):
        step = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        step.diagonal().add_(a)
        factor = step @ factor
        gram = step @ gram @ step if remaining else gram
    return factor @ x
