"""Chunked linear cross-entropy: output projection and loss in one function, a chunk of rows at a time.

The logits of a whole batch never exist together. The gradient of each chunk is computed while its logits are in memory,
so backward has nothing left to compute. Losses are summed, not averaged: the caller divides by the targets of a whole
step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

from bertgpt.ops.kernels import compile_or_fallback, linear

FP16_SCALE = 1024.0  # of gradients until backward: those of unlikely tokens are below the smallest number of fp16
CHUNK_LOGITS = {"cpu": 1 << 24, "mps": 1 << 24, "cuda": 1 << 28}  # logits per chunk, at most about
ChunkResult = tuple[Tensor, Tensor, Tensor]  # losses (N,), whether correct (N,), gradients of the logits (N, V)


@dataclass
class LossOutput:
    """Loss and accuracy at N positions."""

    loss: Tensor  # sum over all targets, in nats; gradients flow from here
    losses: Tensor  # (N,): 0 where the target is ignored
    correct: Tensor  # (N,): whether no logit is larger than the target's


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, vocab_size: int
) -> LossOutput:
    """Cross-entropy of targets (N,) under logits `hidden @ weight.T + bias`, hidden (N, D) and weight (V or more, D).

    Targets of -100 are ignored. Rows of the weight beyond `vocab_size` are padding.
    """
    if not torch.is_grad_enabled():  # a Function computes gradients of every input that requires them
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    return LossOutput(*ChunkedLinearCrossEntropy.apply(hidden, weight, bias, targets, vocab_size))  # type: ignore[no-untyped-call]


class ChunkedLinearCrossEntropy(torch.autograd.Function):
    """The loop over chunks; forward computes the gradients too."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, vocab_size: int) -> Any:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        matrix = weight.to(dtype)
        needs_grad, ctx.scale = ctx.needs_input_grad, FP16_SCALE if dtype == torch.float16 else 1.0
        losses = torch.zeros_like(targets, dtype=torch.float32)
        correct = torch.zeros_like(targets, dtype=torch.bool)
        grad_hidden = torch.empty_like(hidden) if needs_grad[0] else None
        grad_weight = torch.zeros_like(weight) if needs_grad[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and needs_grad[2] else None
        loss_of_chunk = compiled_chunk_loss() if device == "cuda" else chunk_loss_inplace
        for chunk in row_chunks(len(hidden), len(weight), CHUNK_LOGITS[device]):
            rows = hidden[chunk].to(dtype)  # (n, D)
            result = loss_of_chunk(linear(rows, matrix), bias, targets[chunk], vocab_size, ctx.scale)
            losses[chunk], correct[chunk], grad_logits = result
            if grad_hidden is None and grad_weight is None:
                continue
            if grad_bias is not None:
                grad_bias += grad_logits[:, :vocab_size].sum(dim=0, dtype=grad_bias.dtype)
            grad_logits = grad_logits.to(dtype)  # (n, V), or (n, V and padding)
            width = grad_logits.size(1)
            if grad_hidden is not None:
                grad_hidden[chunk] = linear(grad_logits, matrix[:width].T)
            if grad_weight is not None and dtype == grad_weight.dtype:
                grad_weight[:width].addmm_(grad_logits.T, rows)
            elif grad_weight is not None:
                grad_weight[:width] += grad_logits.T @ rows
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(losses, correct)
        return losses.sum(), losses, correct

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> Any:
        grads = (None if grad is None else grad.mul_(grad_loss / ctx.scale) for grad in ctx.saved_tensors)
        return (*grads, None, None)


def row_chunks(num_rows: int, width: int, max_logits: int) -> Iterator[slice]:
    """Slices of the rows: a power of two of them, equal if the rows divide, as code is compiled for each size."""
    count = 1 << max(0, -(-num_rows * width // max_logits) - 1).bit_length()
    size = max(1, -(-num_rows // count))
    return (slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size))


def chunk_loss_inplace(
    logits: Tensor, bias: Tensor | None, targets: Tensor, vocab_size: int, scale: float
) -> ChunkResult:
    """Losses and logit gradients, times `scale`, of a chunk, in place to use little memory: fastest on CPUs."""
    logits = logits.float()[:, :vocab_size]
    if bias is not None:
        logits += bias
    has_target = targets >= 0
    index = targets.clamp(min=0)[:, None]
    top = logits.amax(dim=1)
    target_logits = logits.gather(1, index)[:, 0]
    exp = logits.sub_(top[:, None]).exp_()
    total = exp.sum(dim=1)
    losses = torch.where(has_target, total.log() + top - target_logits, 0.0)
    grad = exp.mul_((scale * has_target / total)[:, None])  # softmax, and minus one at the target
    grad.scatter_add_(1, index, -scale * has_target[:, None].to(grad.dtype))
    return losses, has_target & (target_logits == top), grad


def chunk_loss(logits: Tensor, bias: Tensor | None, targets: Tensor, vocab_size: int, scale: float) -> ChunkResult:
    """The same, written so that torch.compile fuses it into two passes over the logits: fastest on GPUs.

    Padding columns stay, with probability 0: matrix products with rows of an odd width are slow there.
    """
    column = torch.arange(logits.size(1), device=logits.device)
    scores = logits.float()
    if bias is not None:
        scores = scores + F.pad(bias, (0, logits.size(1) - vocab_size))
    scores = torch.where(column < vocab_size, scores, -torch.inf)
    has_target, index = targets >= 0, targets.clamp(min=0)[:, None]
    top = scores.amax(dim=1, keepdim=True)
    exp = (scores - top).exp()
    total = exp.sum(dim=1, keepdim=True)
    target_logits = scores.gather(1, index)
    losses = torch.where(has_target, (total.log() + top - target_logits)[:, 0], 0.0)
    grad = torch.where(has_target[:, None], exp / total - (column == index).float(), 0.0)
    return losses, has_target & (target_logits == top)[:, 0], (grad * scale).to(logits.dtype)


@cache
def compiled_chunk_loss() -> Callable[..., ChunkResult]:
    """`chunk_loss`, compiled."""
    return compile_or_fallback(chunk_loss, "the loss")
