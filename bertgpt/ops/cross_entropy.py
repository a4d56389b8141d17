"""Projection to the vocabulary and cross-entropy at once, a block of rows after the other.

The logits of a whole batch never exist together: each block's gradient is made while its logits are at hand, so the way
back has nothing left to do. Only sums come out, so that whoever asks divides by the targets of a whole step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

from bertgpt.ops.kernels import compile_or_fallback, linear

CHUNK_LOGITS = {"cpu": 1 << 24, "mps": 1 << 24, "cuda": 1 << 28}  # logits of a block, at most about
ChunkResult = tuple[Tensor, Tensor, Tensor]  # losses, whether right, and how the loss changes with each logit


@dataclass
class LossOutput:
    """What was found at some positions."""

    loss: Tensor  # the sum of all, in nats; gradients flow from here
    losses: Tensor  # (N,): zero where nothing is scored
    correct: Tensor  # (N,): whether no id is likelier than the target


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, vocab: int
) -> LossOutput:
    """How surprising targets (N,) are after hidden states (N, D); a target of -100 is not scored.

    The weight may have rows beyond `vocab`, which no id stands for.
    """
    if not torch.is_grad_enabled():  # a Function computes gradients for whatever could want them
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    return LossOutput(*ChunkedLinearCrossEntropy.apply(hidden, weight, bias, targets, vocab))  # type: ignore[no-untyped-call]


class ChunkedLinearCrossEntropy(torch.autograd.Function):
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
        judge = compiled_chunk_loss() if device == "cuda" else chunk_loss_inplace
        for some in row_chunks(len(hidden), len(weight), CHUNK_LOGITS[device]):
            rows = hidden[some].to(dtype)
            judged = judge(linear(rows, matrix), bias, targets[some], vocab)
            losses[some], right[some], slope = judged
            if to_hidden is None and to_weight is None:
                continue
            if to_bias is not None:
                to_bias += slope[:, :vocab].sum(dim=0, dtype=to_bias.dtype)
            slope = slope.to(dtype)
            width = slope.size(1)
            if to_hidden is not None:
                to_hidden[some] = linear(slope, matrix[:width].T)
            if to_weight is not None and dtype == to_weight.dtype:
                to_weight[:width].addmm_(slope.T, rows)
            elif to_weight is not None:
                to_weight[:width] += slope.T @ rows
        ctx.save_for_backward(to_hidden, to_weight, to_bias)
        ctx.mark_non_differentiable(losses, right)
        return losses.sum(), losses, right

    @staticmethod
    def backward(ctx: Any, scale: Tensor, *_: Any) -> Any:
        scaled = (None if slope is None else slope.mul_(scale) for slope in ctx.saved_tensors)
        return (*scaled, None, None)


def row_chunks(rows: int, width: int, most: int) -> Iterator[slice]:
    """Parts of the rows, of a power of two of equal size as far as they divide: compiled code is made for one size."""
    count = 1 << max(0, -(-rows * width // most) - 1).bit_length()
    step = max(1, -(-rows // count))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def chunk_loss_inplace(logits: Tensor, bias: Tensor | None, targets: Tensor, vocab: int) -> ChunkResult:
    """What a block of logits (N, V) comes to, in as little memory as possible: the fastest on CPUs."""
    logits = logits.float()[:, :vocab]
    if bias is not None:
        logits += bias
    scored = targets >= 0
    wanted = targets.clamp(min=0)[:, None]
    top = logits.amax(dim=1)
    at_target = logits.gather(1, wanted)[:, 0]
    odds = logits.sub_(top[:, None]).exp_()
    total = odds.sum(dim=1)
    losses = torch.where(scored, total.log() + top - at_target, 0.0)
    slope = odds.mul_((scored / total)[:, None])  # probabilities, and minus one at the target
    slope.scatter_add_(1, wanted, -scored[:, None].to(slope.dtype))
    return losses, scored & (at_target == top), slope


def chunk_loss(logits: Tensor, bias: Tensor | None, targets: Tensor, vocab: int) -> ChunkResult:
    """The same, written so that a compiler makes two passes of it: the fastest on GPUs.

    All columns stay, those beyond the vocabulary at no odds: rows of an odd width make products slow there.
    """
    column = torch.arange(logits.size(1), device=logits.device)
    scores = logits.float()
    if bias is not None:
        scores = scores + F.pad(bias, (0, logits.size(1) - vocab))
    scores = torch.where(column < vocab, scores, -torch.inf)
    scored, wanted = targets >= 0, targets.clamp(min=0)[:, None]
    top = scores.amax(dim=1, keepdim=True)
    odds = (scores - top).exp()
    total = odds.sum(dim=1, keepdim=True)
    at_target = scores.gather(1, wanted)
    losses = torch.where(scored, (total.log() + top - at_target)[:, 0], 0.0)
    slope = torch.where(scored[:, None], odds / total - (column == wanted).float(), 0.0)
    return losses, scored & (at_target == top)[:, 0], slope.to(logits.dtype)


@cache
def compiled_chunk_loss() -> Callable[..., ChunkResult]:
    """`in_passing`, compiled."""
    return compile_or_fallback(chunk_loss, "the loss")
