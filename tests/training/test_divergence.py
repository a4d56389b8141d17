"""Divergence: non-finite steps never update parameters and never reach a checkpoint; rollback and giving up."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import bertgpt
from bertgpt import trainer as trainer_module
from bertgpt.trainer import Trainer
from bertgpt.utils.errors import BertGPTError
from tests.conftest import Outcome
from tests.fixtures.training import SHORT_RUN, TrainingData, assert_identical_runs, flags, logged_metrics

Run = Callable[..., Outcome]


def inject_nan(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Make the training loss NaN for the samples of some steps, in the order of samples."""
    compute_loss = Trainer.compute_loss

    def nonfinite_loss(trainer: Trainer, batch: Any) -> Any:
        terms = compute_loss(trainer, batch)
        if trainer.model.training and trainer.step + trainer.skipped_steps in steps:
            terms = {name: replace(term, loss=term.loss * float("nan")) for name, term in terms.items()}
        return terms

    monkeypatch.setattr(Trainer, "compute_loss", nonfinite_loss)


def is_finite(run: Path) -> bool:
    files = [*run.glob("checkpoints/*/*.safetensors"), *run.glob("final/*.safetensors")]
    assert files
    return all(bool(value.isfinite().all()) for file in files for value in load_file(file).values())


def test_non_finite_step_is_skipped(
    training_data: TrainingData, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, options = training_data["clm"]
    inject_nan(monkeypatch, 5)
    done = run("pretrain", source, "--out", str(tmp_path / "run"), *flags(options | SHORT_RUN))
    assert done.code == 0
    assert "step 6: non-finite (loss nan, gradient norm nan), update skipped" in done.err
    trained = [line["step"] for line in logged_metrics(tmp_path / "run") if line["split"] == "train"]
    assert trained == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]
    assert is_finite(tmp_path / "run")


def test_repeated_non_finite_steps_roll_back_once_and_skip_the_batches(
    training_data: TrainingData, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same result if the run is killed after the rollback, before the next checkpoint."""
    source, options = training_data["clm"]
    inject_nan(monkeypatch, 5, 6, 7)
    run_options = flags(options | SHORT_RUN)
    done = run("pretrain", source, "--out", str(tmp_path / "uninterrupted"), *run_options)
    assert done.code == 0
    assert "rolling back to step 4 and skipping these batches" in done.err
    trained = [line["step"] for line in logged_metrics(tmp_path / "uninterrupted") if line["split"] == "train"]
    assert trained == list(range(1, 13))
    state = json.loads((tmp_path / "uninterrupted" / "checkpoints" / "step-00000012" / "state.json").read_text())
    assert (state["skipped_steps"], state["rolled_back"]) == (4, True)
    with monkeypatch.context() as patched:
        real = Trainer.log_step

        def killed(trainer: Trainer, metrics: Any, progress: Any) -> None:
            if trainer.rolled_back:
                raise RuntimeError("killed")
            real(trainer, metrics, progress)

        patched.setattr(Trainer, "log_step", killed)
        assert run("pretrain", source, "--out", str(tmp_path / "killed"), *run_options).code == 1
    assert run("pretrain", source, "--out", str(tmp_path / "killed"), *run_options).code == 0
    assert_identical_runs(tmp_path / "uninterrupted", tmp_path / "killed")


def test_rollback_does_not_depend_on_where_a_run_was_stopped(
    training_data: TrainingData, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint saved on a signal is newer, but an uninterrupted run would not have it."""
    source, options = training_data["clm"]
    inject_nan(monkeypatch, 6, 7, 8)
    run_options = flags(options | SHORT_RUN)
    assert run("pretrain", source, "--out", str(tmp_path / "uninterrupted"), *run_options).code == 0
    compute_loss = Trainer.compute_loss

    def stopped(trainer: Trainer, batch: Any) -> Any:
        if trainer.step == 5 and trainer.model.training:
            signal.raise_signal(signal.SIGTERM)
        return compute_loss(trainer, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "compute_loss", stopped)
        assert run("pretrain", source, "--out", str(tmp_path / "stopped"), *run_options).code == 143
    assert run("pretrain", source, "--out", str(tmp_path / "stopped"), *run_options).code == 0
    assert_identical_runs(tmp_path / "uninterrupted", tmp_path / "stopped")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(("save_every", "lr"), [(1, 1e30), (4, 1e30), (1, 1e6)])
def test_far_too_high_learning_rate_ends_the_run(
    save_every: int, lr: float, optimizer: str, training_data: TrainingData, tmp_path: Path, run: Run
) -> None:
    source, options = training_data["mlm"]
    run_options = options | SHORT_RUN | {
        "lr": lr, "warmup": 0, "save_every": save_every, "optimizer": optimizer, "max_steps": 100,
    }  # fmt: skip
    done = run("pretrain", source, "--out", str(tmp_path / "run"), *flags(run_options), "--json")
    assert done.code == 5
    error = json.loads(done.out)["error"]
    assert error["code"] == "BG501"
    assert "lower --lr" in error["hint"]
    assert is_finite(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "diverged"
    assert "loss" in json.loads((tmp_path / "run" / "diverged.json").read_text())


def test_only_consecutive_non_finite_steps_trigger_rollback(
    training_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, options = training_data["clm"]
    assert trainer_module.MAX_NONFINITE_STEPS == 3
    inject_nan(monkeypatch, 1, 2, 4, 5, 7, 8)
    done = bertgpt.pretrain(source, out=str(tmp_path / "run"), **(options | SHORT_RUN))
    assert done["steps"] == 12
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000012" / "state.json").read_text())
    assert not state["rolled_back"]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_error_suggests_a_smaller_micro_batch(
    error: Exception, training_data: TrainingData, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, options = training_data["clm"]
    run_options = flags(options | SHORT_RUN)

    def out_of_memory(trainer: Trainer, batch: Any) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "compute_loss", out_of_memory)
        done = run("pretrain", source, "--out", str(tmp_path / "run"), *run_options, "--json")
    assert done.code == 4
    assert json.loads(done.out)["error"]["code"] == "BG406"
    assert "--micro-batch-size 4" in json.loads(done.out)["error"]["hint"]
    assert run("pretrain", source, "--out", str(tmp_path / "run"), *run_options, "--micro-batch-size", "4").code == 0


def test_non_finite_validation_loss_is_an_error(
    training_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, options = training_data["clm"]
    compute_loss = Trainer.compute_loss

    def nonfinite_loss(trainer: Trainer, batch: Any) -> Any:
        terms = compute_loss(trainer, batch)
        if not trainer.model.training:
            terms = {name: replace(term, loss=term.loss * float("inf")) for name, term in terms.items()}
        return terms

    monkeypatch.setattr(Trainer, "compute_loss", nonfinite_loss)
    with pytest.raises(BertGPTError, match="val loss is not finite at step 5"):
        bertgpt.pretrain(source, out=str(tmp_path / "run"), **(options | SHORT_RUN))
