"""Matrix products and attention, each by the fastest way that torch has for a device and precision. All give the same.

What torch takes by default is not always that (benchmarks/README.md has the figures). Its fp32 products on CPUs go to
MKL, which on AMD's is half as fast as oneDNN, which torch has too. Its fused attention on CPUs is slower in bf16 than
the three steps by themselves, as long as rows are short.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError

MATH_ATTENTION_MAX_KEYS = 512  # keys, up to which attention in bf16 on CPUs is done step by step
PREPACK_BATCH = 16  # of x, for which the order of packed weights is best
ONEDNN = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, packed: Tensor | None = None) -> Tensor:
    """(..., in) and (out, in) to (..., out); `packed` is the same weight as `pack` has it."""
    if packed is not None:
        return onednn_linear(x, packed, bias)
    if not use_onednn(x):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        projected: Tensor = OneDNNLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return projected
    return onednn_linear(x, weight, bias)


def prepack(weight: Tensor) -> Tensor | None:
    """A weight in the order in which oneDNN reads it, where it makes the products: once, instead of in each of them."""
    readable = weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and has_bf16(weight.device))
    if not ONEDNN or weight.device.type != "cpu" or not readable:
        return None
    with torch.no_grad():
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PREPACK_BATCH)
    return packed


def use_onednn(x: Tensor) -> bool:
    """Whether fp32 products are made here."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0
    return ONEDNN and plain and not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed, not emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, flag, lambda: False)() for flag in flags)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, in the precision of its arguments."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


class OneDNNLinear(torch.autograd.Function):
    """A projection and its way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        to_x = onednn_linear(slope, weight.t()) if ctx.needs_input_grad[0] else None
        rows, slopes = x.flatten(0, -2), slope.flatten(0, -2)
        to_weight = onednn_linear(slopes.t(), rows.t()) if ctx.needs_input_grad[1] else None
        to_bias = slopes.sum(dim=0) if ctx.needs_input_grad[2] else None
        return to_x, to_weight, to_bias


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Any, causal: bool, rate: float) -> Tensor:
    """What each position takes from those that it sees: all (B, H, T, D / H), the mask true where it sees."""
    if q.dtype != k.dtype:  # what a cache keeps in fp32, since torch's fused attention on CPUs is far slower in bf16
        return attention(q.to(k.dtype), k, v, mask, causal, rate).to(q.dtype)
    if not (mask is None or isinstance(mask, Tensor)):
        if rate:
            raise BertGPTError("BG204", "FlexAttention has no dropout", hint="give dropout 0, or take the other kernel")
        return flex_attention_call(q, k, v, mask)
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or k.size(2) > MATH_ATTENTION_MAX_KEYS:
        return F.scaled_dot_product_attention(q, k, v, mask, rate, is_causal=causal and mask is None)
    if causal and mask is None:
        mask = torch.ones((q.size(2), k.size(2)), dtype=torch.bool).tril()
    scores = (q * q.size(3) ** -0.5) @ k.transpose(2, 3)
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return F.dropout(scores.softmax(dim=3), rate) @ v


def flex_attention_call(q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
    """The same by FlexAttention, which skips blocks in which nobody sees anybody; it has no dropout."""
    from torch.nn.attention.flex_attention import flex_attention

    run = compiled_flex() if q.device.type == "cuda" else flex_attention
    taken: Tensor = run(q, k, v, block_mask=mask)
    return taken


@cache
def compiled_flex() -> Any:
    """Without being compiled it would be slower than anything."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def compile_or_fallback(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """A function for one size of its arguments; where it cannot be compiled it stays as it is, and that is said."""
    if hasattr(torch._functorch.config, "force_non_lazy_backward_lowering"):
        torch._functorch.config.force_non_lazy_backward_lowering = True  # so that what fails does so in the first call
    fast = torch.compile(function, dynamic=False)
    failed = False

    def run(*given: Any, **named: Any) -> Any:
        nonlocal failed
        if not failed:
            try:
                return fast(*given, **named)
            except torch._dynamo.exc.TorchDynamoException as error:
                said = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
                console.note(f"{what} is not compiled: {said}")
                failed = True
        return function(*given, **named)

    return run


def block_mask(causal: bool, documents: Tensor | None, window: int, length: int, device: torch.device) -> Any:
    """Whom each position sees, as FlexAttention wants it; a window of 0 has no end."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = query >= key if causal else query == query
        if documents is not None:
            seen = seen & (documents[row, query] == documents[row, key])
        return seen & ((query - key).abs() <= window) if window else seen

    rows = None if documents is None else len(documents)
    return create_block_mask(sees, rows, None, length, length, device=device)
