"""Training on CUDA: torch.compile, exact resume, half precision, device properties."""

from pathlib import Path
from typing import Any

import pytest
import torch

import bertgpt
from bertgpt.training.checkpoints import Checkpoints
from bertgpt.training.device import peak_flops, peak_memory
from tests.fixtures.training import SHORT_RUN, TrainingData, assert_identical_runs, logged_metrics

CUDA = SHORT_RUN | {"device": "cuda"}
pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("objective", ["clm", "mlm", "hybrid"])
def test_compiled_and_eager_steps_match_the_cpu(objective: str, training_data: TrainingData, tmp_path: Path) -> None:
    source, options = training_data[objective]
    bertgpt.pretrain(source, out=str(tmp_path / "cpu"), **(options | SHORT_RUN))
    for name, more in (("compiled", {"compile": True}), ("eager", {"compile": False})):
        bertgpt.pretrain(source, out=str(tmp_path / name), **(options | CUDA | more))
        for one, other in zip(logged_metrics(tmp_path / "cpu"), logged_metrics(tmp_path / name), strict=True):
            assert one["loss"] == pytest.approx(other["loss"], abs=1e-3)


@pytest.mark.parametrize("objective", ["clm", "mlm", "hybrid"])
@pytest.mark.parametrize("compiled", [False, True])
def test_resume_is_exact(
    compiled: bool, objective: str, tiny_training_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, options = tiny_training_data[objective]
    options = options | CUDA | {"deterministic": True, "compile": compiled, "precision": "bf16", "optimizer": "muon"}
    bertgpt.pretrain(source, out=str(tmp_path / "uninterrupted"), **options)
    save = Checkpoints.save

    def killed(checkpoints: Checkpoints, step: int, *args: Any) -> Any:
        if step >= 8:
            raise RuntimeError("killed")
        return save(checkpoints, step, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", killed)
        with pytest.raises(RuntimeError, match="killed"):
            bertgpt.pretrain(source, out=str(tmp_path / "interrupted"), **options)
    bertgpt.pretrain(source, out=str(tmp_path / "interrupted"), **options)
    assert_identical_runs(tmp_path / "uninterrupted", tmp_path / "interrupted")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_matches_fp32(precision: str, training_data: TrainingData, tmp_path: Path) -> None:
    source, options = training_data["clm"]
    full = bertgpt.pretrain(source, out=str(tmp_path / "full"), **(options | CUDA))
    half = bertgpt.pretrain(source, out=str(tmp_path / "half"), **(options | CUDA | {"precision": precision}))
    assert half["val_loss"] == pytest.approx(full["val_loss"], abs=0.03)


def test_device_properties_are_known() -> None:
    assert peak_flops(torch.device("cuda", 0)) is not None
    assert peak_memory(torch.device("cuda", 0)) >= 0
