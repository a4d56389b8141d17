"""What only a CUDA device can show: compiled steps, exact resume there, half precision, figures of the device."""

from pathlib import Path
from typing import Any

import pytest
import torch

import bertgpt
from bertgpt.training.checkpoints import Checkpoints
from bertgpt.training.device import peak_flops, peak_memory
from tests.fixtures.training import SHORT, assert_same, deterministic

Kinds = dict[str, tuple[str, dict[str, Any]]]
CUDA = SHORT | {"device": "cuda"}
pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", ["clm", "mlm", "hybrid"])
def test_compiled_steps_are_those_of_the_cpu(kind: str, kinds: Kinds, tmp_path: Path) -> None:
    source, options = kinds[kind]
    bertgpt.pretrain(source, out=str(tmp_path / "cpu"), **(options | SHORT))
    for name, more in (("compiled", {"compile": True}), ("eager", {"compile": False})):
        bertgpt.pretrain(source, out=str(tmp_path / name), **(options | CUDA | more))
        for one, other in zip(deterministic(tmp_path / "cpu"), deterministic(tmp_path / name), strict=True):
            assert one["loss"] == pytest.approx(other["loss"], abs=1e-3)


@pytest.mark.parametrize("kind", ["clm", "mlm", "hybrid"])
@pytest.mark.parametrize("compiled", [False, True])
def test_resume_is_exact(
    compiled: bool, kind: str, few: Kinds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, options = few[kind]
    options = options | CUDA | {"deterministic": True, "compile": compiled, "precision": "bf16", "optimizer": "muon"}
    bertgpt.pretrain(source, out=str(tmp_path / "straight"), **options)
    write = Checkpoints.save

    def killed(*given: Any) -> Any:
        if given[1] >= 8:
            raise RuntimeError("killed")
        return write(*given)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", killed)
        with pytest.raises(RuntimeError, match="killed"):
            bertgpt.pretrain(source, out=str(tmp_path / "broken"), **options)
    bertgpt.pretrain(source, out=str(tmp_path / "broken"), **options)
    assert_same(tmp_path / "straight", tmp_path / "broken")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_as_well(precision: str, kinds: Kinds, tmp_path: Path) -> None:
    source, options = kinds["clm"]
    full = bertgpt.pretrain(source, out=str(tmp_path / "full"), **(options | CUDA))
    half = bertgpt.pretrain(source, out=str(tmp_path / "half"), **(options | CUDA | {"precision": precision}))
    assert half["val_loss"] == pytest.approx(full["val_loss"], abs=0.03)


def test_the_device_is_known() -> None:
    assert peak_flops(torch.device("cuda", 0)) is not None
    assert peak_memory(torch.device("cuda", 0)) >= 0
