"""A torch without one of its private names gives the same results, to rounding."""

import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

import bertgpt
from bertgpt.ops import kernels, torch_private
from bertgpt.training.adamw import AdamW


def test_private_names_of_torch_are_in_one_file() -> None:
    private = re.compile(r"\btorch(\.\w+)*\._[a-zA-Z]\w*")
    package = Path(bertgpt.__file__).parent
    found = {file.name for file in package.rglob("*.py") if private.search(file.read_text(encoding="utf-8"))}
    assert found == {"torch_private.py"}


def adamw_steps() -> list[torch.Tensor]:
    """Two parameters after five steps, and their state."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(shape, generator=generator, requires_grad=True) for shape in ((30, 20), (20,))]
    optimizer = AdamW([{"params": parameters, "lr": 0.01, "weight_decay": 0.1}], beta2=0.95)
    for _ in range(5):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    states = [state[key] for state in optimizer.state.values() for key in ("step", "exp_avg", "exp_avg_sq")]
    return [*parameters, *states]


@pytest.mark.parametrize("name", ["_fused_adamw_", "_foreach_add_"])
def test_adamw_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = adamw_steps()
    monkeypatch.delattr(torch, name)
    for tensor, other in zip(adamw_steps(), expected, strict=True):
        torch.testing.assert_close(tensor, other, rtol=1e-6, atol=1e-7)


def test_scaling_without_foreach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_foreach_mul_")
    tensors = [torch.ones(3), torch.full((2, 2), 4.0)]
    torch_private.scale_all(tensors, 0.5)
    assert [tensor.unique().tolist() for tensor in tensors] == [[0.5], [2.0]]


def test_linear_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_private, "ONEDNN_OPS", ("_no_such_operator",))
    assert not torch_private.has_onednn()
    for module in (kernels, torch_private):
        monkeypatch.setattr(module, "ONEDNN", False)
    x, weight, bias = torch.randn(5, 7), torch.randn(3, 7, requires_grad=True), torch.randn(3)
    assert kernels.prepack(weight) is None
    torch.testing.assert_close(torch_private.onednn_layout(weight), weight)
    for y in (kernels.linear(x, weight, bias), torch_private.onednn_linear(x, weight, bias)):
        torch.testing.assert_close(y, F.linear(x, weight, bias))


def test_processor_without_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, flag, raising=False)
    assert not torch_private.cpu_has_bf16()


def test_compile_errors_are_those_of_torch() -> None:
    from torch._dynamo.exc import TorchDynamoException

    assert torch_private.compile_error() is TorchDynamoException
    assert issubclass(TorchDynamoException, RuntimeError)  # the fallback
    torch_private.compile_backward_at_once()
    assert torch._functorch.config.force_non_lazy_backward_lowering
