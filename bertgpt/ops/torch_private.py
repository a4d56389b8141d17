"""All that the package uses of torch's private names, each with a public fallback.

Private names may go in any release of torch. A torch without one of them is slower here, at most, and its results agree
to rounding.
"""

import importlib
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

ONEDNN_OPS = ("_linear_pointwise", "_reorder_linear_weight")
PREPACK_BATCH = 16  # the number of rows of x that prepacked weights are laid out for


def has_onednn() -> bool:
    """Whether linear layers can be computed by oneDNN."""
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return built and all(hasattr(torch.ops.mkldnn, name) for name in ONEDNN_OPS)


ONEDNN = has_onednn()


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer by oneDNN, in the precision of its arguments; no autograd."""
    if not ONEDNN:
        return F.linear(x, weight, bias)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def onednn_layout(weight: Tensor) -> Tensor:
    """The weight in oneDNN's blocked layout, which `onednn_linear` need not reorder in each product."""
    if not ONEDNN:
        return weight
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PREPACK_BATCH)
    return packed


def cpu_has_bf16() -> bool:
    """Whether this processor has bf16 matrix products."""
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, flag, lambda: False)() for flag in flags)


def add_one(tensors: list[Tensor]) -> None:
    """Add 1 to each tensor, in one kernel on CUDA."""
    if hasattr(torch, "_foreach_add_"):
        torch._foreach_add_(tensors, 1)
    else:
        for tensor in tensors:
            tensor.add_(1)


def scale_all(tensors: list[Tensor], factor: float) -> None:
    """Multiply each tensor by a factor, in few kernels on CUDA."""
    if hasattr(torch, "_foreach_mul_"):
        torch._foreach_mul_(tensors, factor)
    else:
        for tensor in tensors:
            tensor.mul_(factor)


def adamw_(
    parameters: list[Tensor], states: list[dict[str, Tensor]], lr: float, betas: tuple[float, float],
    weight_decay: float, eps: float,
) -> None:  # fmt: skip
    """A step of AdamW on all parameters at once; `states` hold `step`, already counted, `exp_avg` and `exp_avg_sq`."""
    if hasattr(torch, "_fused_adamw_"):
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._fused_adamw_(
            parameters, gradients, [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states], [], [state["step"] for state in states], lr=lr, beta1=betas[0],
            beta2=betas[1], weight_decay=weight_decay, eps=eps, amsgrad=False, maximize=False,
        )  # fmt: skip
        return
    for parameter, state in zip(parameters, states, strict=True):
        adamw_one_(parameter, state, lr, betas, weight_decay, eps)


def adamw_one_(
    parameter: Tensor, state: dict[str, Tensor], lr: float, betas: tuple[float, float], weight_decay: float, eps: float
) -> None:
    """A step of AdamW on one parameter, by public functions."""
    assert parameter.grad is not None
    step, exp_avg, exp_avg_sq = state["step"], state["exp_avg"], state["exp_avg_sq"]
    parameter.mul_(1 - lr * weight_decay)
    exp_avg.lerp_(parameter.grad, 1 - betas[0])
    exp_avg_sq.mul_(betas[1]).addcmul_(parameter.grad, parameter.grad, value=1 - betas[1])
    bias1, bias2 = 1 - betas[0] ** step, 1 - betas[1] ** step
    parameter.sub_(lr / bias1 * exp_avg / ((exp_avg_sq / bias2).sqrt() + eps))


def compile_backward_at_once() -> None:
    """Let torch.compile compile the backward pass in the first forward call, so that its errors come there."""
    with suppress(ImportError, AttributeError):
        config: Any = importlib.import_module("torch._functorch.config")  # `import torch` does not import it
        if hasattr(config, "force_non_lazy_backward_lowering"):
            config.force_non_lazy_backward_lowering = True


def compile_error() -> type[Exception]:
    """The base class of what torch.compile raises for code that it cannot compile."""
    try:
        error: type[Exception] = importlib.import_module("torch._dynamo.exc").TorchDynamoException
    except (ImportError, AttributeError):
        return RuntimeError  # its base class
    return error
