"""Linear and attention kernels: for each device and precision the fastest that torch has. All give the same results.

torch's defaults are not always the fastest (figures in benchmarks/README.md). Its fp32 matrix products on CPUs use MKL,
which on AMD processors is half as fast as oneDNN, which torch includes too. Its fused attention on CPUs is slower in
bf16 than separate matrix products and softmax, as long as rows are short.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

from bertgpt.ops.torch_private import (
    ONEDNN,
    compile_backward_at_once,
    compile_error,
    cpu_has_bf16,
    onednn_layout,
    onednn_linear,
)
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError

MATH_ATTENTION_MAX_KEYS = 512  # bf16 attention on CPUs uses separate products up to this many keys


# ------------------------------------------------------------------------------------------------------- linear


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, prepacked: Tensor | None = None) -> Tensor:
    """Linear layer, x (..., in) and weight (out, in) to (..., out). `prepacked` is the same weight from `prepack`."""
    if prepacked is not None:
        return onednn_linear(x, prepacked, bias)
    if not use_onednn(x):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        y: Tensor = OneDNNLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return y
    return onednn_linear(x, weight, bias)


def prepack(weight: Tensor) -> Tensor | None:
    """The weight in oneDNN's blocked layout, reordered once instead of in each product; None if oneDNN is not used."""
    supported = weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and has_bf16(weight.device))
    if not ONEDNN or weight.device.type != "cpu" or not supported:
        return None
    with torch.no_grad():
        return onednn_layout(weight.detach())


def use_onednn(x: Tensor) -> bool:
    """Whether oneDNN computes linear layers of x: fp32 on a CPU, outside autocast and torch.compile."""
    eligible = x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0
    return ONEDNN and eligible and not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes bf16 in hardware, without emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and cpu_has_bf16()


class OneDNNLinear(torch.autograd.Function):
    """Linear layer by oneDNN with autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad_x = onednn_linear(grad, weight.t()) if ctx.needs_input_grad[0] else None
        rows, grad_rows = x.flatten(0, -2), grad.flatten(0, -2)
        grad_weight = onednn_linear(grad_rows.t(), rows.t()) if ctx.needs_input_grad[1] else None
        grad_bias = grad_rows.sum(dim=0) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias


# ---------------------------------------------------------------------------------------------------- attention


def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, mask: Any, causal: bool, dropout: float) -> Tensor:
    """Scaled dot-product attention, q (B, H, T, D / H) and k, v (B, H, S, D / H) to (B, H, T, D / H).

    The mask is boolean, True where a query attends to a key, or a block mask of FlexAttention. Without one, `causal`
    decides.
    """
    if q.dtype != k.dtype:  # the KV cache is fp32 on CPUs, as torch's fused attention is far slower in bf16 there
        return scaled_dot_product_attention(q.to(k.dtype), k, v, mask, causal, dropout).to(q.dtype)
    if not (mask is None or isinstance(mask, Tensor)):
        if dropout:
            raise BertGPTError("BG204", "FlexAttention has no dropout", hint="set dropout to 0, or use the sdpa kernel")
        return flex_attention_call(q, k, v, mask)
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or k.size(2) > MATH_ATTENTION_MAX_KEYS:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal and mask is None)
    if causal and mask is None:
        mask = torch.ones((q.size(2), k.size(2)), dtype=torch.bool).tril()
    scores = (q * q.size(3) ** -0.5) @ k.transpose(2, 3)  # (B, H, T, S)
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return F.dropout(scores.softmax(dim=3), dropout) @ v


def flex_attention_call(q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
    """Attention by FlexAttention, which skips blocks that are masked entirely. It has no dropout."""
    from torch.nn.attention.flex_attention import flex_attention

    flex = compiled_flex() if q.device.type == "cuda" else flex_attention
    y: Tensor = flex(q, k, v, block_mask=mask)
    return y


@cache
def compiled_flex() -> Any:
    """FlexAttention, compiled: uncompiled it computes all scores, slower than any other kernel."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def block_mask(causal: bool, document_ids: Tensor | None, window: int, length: int, device: torch.device) -> Any:
    """The attention mask of `length` positions as FlexAttention's block mask; a window of 0 is unlimited."""
    from torch.nn.attention.flex_attention import create_block_mask

    def attends(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        mask = query >= key if causal else query == query
        if document_ids is not None:
            mask = mask & (document_ids[row, query] == document_ids[row, key])
        return mask & ((query - key).abs() <= window) if window else mask

    batch_size = None if document_ids is None else len(document_ids)
    return create_block_mask(attends, batch_size, None, length, length, device=device)


# ------------------------------------------------------------------------------------------------------ compile


def compile_or_fallback(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """torch.compile for fixed shapes; a function that cannot be compiled runs uncompiled, with a note that names it."""
    compile_backward_at_once()
    compiled = torch.compile(function, dynamic=False)
    failed = False

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal failed
        if not failed:
            try:
                return compiled(*args, **kwargs)
            except compile_error() as error:
                message = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
                console.info(f"{name} is not compiled: {message}")
                failed = True
        return function(*args, **kwargs)

    return call
