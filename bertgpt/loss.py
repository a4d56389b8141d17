"""Projection to the vocabulary and cross-entropy at once, a block of rows after the other.

The logits of a whole batch never exist together: each block's gradient is made while its logits are at hand, so the way
back has nothing left to do. Only sums come out, so that whoever asks divides by the targets of a whole step.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bertgpt.kernels import project

BLOCK_LOGITS = 1 << 24  # logits of a block, at most about


@dataclass
class Scored:
    """What was found at some positions."""

    loss: Tensor  # the sum of all, in nats; gradients flow from here
    losses: Tensor  # (N,): zero where nothing is scored
    right: Tensor  # (N,): whether no id is likelier than the target


def cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, vocab: int) -> Scored:
    """How surprising targets (N,) are after hidden states (N, D); a target of -100 is not scored.

    The weight may have rows beyond `vocab`, which no id stands for.
    """
    if not torch.is_grad_enabled():  # a Function computes gradients for whatever could want them
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    return Scored(*Projected.apply(hidden, weight, bias, targets, vocab))  # type: ignore[no-untyped-call]


class Projected(torch.autograd.Function):
    """The block loop."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, vocab: int) -> Any:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        matrix = weight.to(dtype)
        wanted = ctx.needs_input_grad
        losses = torch.zeros_like(targets, dtype=torch.float32)
        right = torch.zeros_like(targets, dtype=torch.bool)
        to_hidden = torch.empty_like(hidden) if wanted[0] else None
        to_weight = torch.zeros_like(weight) if wanted[1] else None
        to_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
        blocks = -(-len(hidden) * len(weight) // BLOCK_LOGITS)
        step = max(1, -(-len(hidden) // max(1, blocks)))
        for start in range(0, len(hidden), step):
            some = slice(start, start + step)
            rows, target = hidden[some].to(dtype), targets[some]
            logits = project(rows, matrix).float()[:, :vocab]  # (block, V)
            if bias is not None:
                logits += bias
            scored = target >= 0
            wanted_id = target.clamp(min=0)[:, None]
            top = logits.amax(dim=1)
            at_target = logits.gather(1, wanted_id)[:, 0]
            odds = logits.sub_(top[:, None]).exp_()
            total = odds.sum(dim=1)
            losses[some] = torch.where(scored, total.log() + top - at_target, 0.0)
            right[some] = scored & (at_target == top)
            if to_hidden is None and to_weight is None:
                continue
            slope = odds.mul_((scored / total)[:, None])  # probabilities, and minus one at the target
            slope.scatter_add_(1, wanted_id, -scored[:, None].to(slope.dtype))
            if to_bias is not None:
                to_bias += slope.sum(dim=0)
            slope = slope.to(dtype)
            if to_hidden is not None:
                to_hidden[some] = project(slope, matrix[:vocab].T)
            if to_weight is not None and dtype == to_weight.dtype:
                to_weight[:vocab].addmm_(slope.T, rows)
            elif to_weight is not None:
                to_weight[:vocab] += slope.T @ rows
        ctx.save_for_backward(to_hidden, to_weight, to_bias)
        ctx.mark_non_differentiable(losses, right)
        return losses.sum(), losses, right

    @staticmethod
    def backward(ctx: Any, scale: Tensor, *_: Any) -> Any:
        scaled = (None if slope is None else slope.mul_(scale) for slope in ctx.saved_tensors)
        return (*scaled, None, None)
