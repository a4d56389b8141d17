"""What is not finite never moves a weight, and never reaches a checkpoint."""

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
from bertgpt import trainer as training
from bertgpt.trainer import Trainer
from bertgpt.utils.errors import BertGPTError
from tests.conftest import Outcome
from tests.fixtures.training import SHORT, assert_same, deterministic, flags

Run = Callable[..., Outcome]
Kinds = dict[str, tuple[str, dict[str, Any]]]


def broken(monkeypatch: pytest.MonkeyPatch, *samples: int) -> None:
    """Have the loss be no number at some places in the order of samples, counted in steps."""
    terms = Trainer.compute_loss

    def bad(trainer: Trainer, part: Any) -> Any:
        found = terms(trainer, part)
        if trainer.model.training and trainer.step + trainer.skipped_steps in samples:
            found = {name: replace(term, loss=term.loss * float("nan")) for name, term in found.items()}
        return found

    monkeypatch.setattr(Trainer, "compute_loss", bad)


def finite(run: Path) -> bool:
    files = [*run.glob("checkpoints/*/*.safetensors"), *run.glob("final/*.safetensors")]
    assert files
    return all(bool(value.isfinite().all()) for file in files for value in load_file(file).values())


def test_one_bad_step_is_passed_over(kinds: Kinds, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    source, options = kinds["clm"]
    broken(monkeypatch, 5)
    done = run("pretrain", source, "--out", str(tmp_path / "run"), *flags(options | SHORT))
    assert done.code == 0
    assert "step 6 is not finite (loss nan, gradient norm nan), and is not taken" in done.err
    trained = [line["step"] for line in deterministic(tmp_path / "run") if line["split"] == "train"]
    assert trained == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]
    assert finite(tmp_path / "run")


def test_several_lead_back_once_and_past_the_samples(
    kinds: Kinds, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the same if it is killed after that, before a checkpoint: it comes to the same place again."""
    source, options = kinds["clm"]
    broken(monkeypatch, 5, 6, 7)
    given = flags(options | SHORT)
    done = run("pretrain", source, "--out", str(tmp_path / "straight"), *given)
    assert done.code == 0
    assert "back to step 4, past these samples" in done.err
    trained = [line["step"] for line in deterministic(tmp_path / "straight") if line["split"] == "train"]
    assert trained == list(range(1, 13))
    state = json.loads((tmp_path / "straight" / "checkpoints" / "step-00000012" / "state.json").read_text())
    assert (state["skipped_steps"], state["rolled_back"]) == (4, True)
    with monkeypatch.context() as patched:
        real = Trainer.log_step

        def killed(trainer: Trainer, metrics: Any, progress: Any) -> None:
            if trainer.rolled_back:
                raise RuntimeError("killed")
            real(trainer, metrics, progress)

        patched.setattr(Trainer, "log_step", killed)
        assert run("pretrain", source, "--out", str(tmp_path / "killed"), *given).code == 1
    assert run("pretrain", source, "--out", str(tmp_path / "killed"), *given).code == 0
    assert_same(tmp_path / "straight", tmp_path / "killed")


def test_a_way_back_does_not_depend_on_where_a_run_was_stopped(
    kinds: Kinds, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of a signal is nearer, but an undisturbed run would not have it."""
    source, options = kinds["clm"]
    broken(monkeypatch, 6, 7, 8)
    given = flags(options | SHORT)
    assert run("pretrain", source, "--out", str(tmp_path / "straight"), *given).code == 0
    terms = Trainer.compute_loss

    def asked(trainer: Trainer, part: Any) -> Any:
        if trainer.step == 5 and trainer.model.training:
            signal.raise_signal(signal.SIGTERM)
        return terms(trainer, part)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "compute_loss", asked)
        assert run("pretrain", source, "--out", str(tmp_path / "stopped"), *given).code == 143
    assert run("pretrain", source, "--out", str(tmp_path / "stopped"), *given).code == 0
    assert_same(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(("save_every", "lr"), [(1, 1e30), (4, 1e30), (1, 1e6)])
def test_a_rate_that_is_far_too_high_ends_the_run(
    save_every: int, lr: float, optimizer: str, kinds: Kinds, tmp_path: Path, run: Run
) -> None:
    source, options = kinds["mlm"]
    given = options | SHORT | {
        "lr": lr, "warmup": 0, "save_every": save_every, "optimizer": optimizer, "max_steps": 100,
    }  # fmt: skip
    done = run("pretrain", source, "--out", str(tmp_path / "run"), *flags(given), "--json")
    assert done.code == 5
    error = json.loads(done.out)["error"]
    assert error["code"] == "BG501"
    assert "smaller --lr" in error["hint"]
    assert finite(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "diverged"
    assert "loss" in json.loads((tmp_path / "run" / "diverged.json").read_text())


def test_patience_is_counted_in_a_row(kinds: Kinds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, options = kinds["clm"]
    assert training.MAX_NONFINITE_STEPS == 3
    broken(monkeypatch, 1, 2, 4, 5, 7, 8)
    done = bertgpt.pretrain(source, out=str(tmp_path / "run"), **(options | SHORT))
    assert done["steps"] == 12
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000012" / "state.json").read_text())
    assert not state["rolled_back"]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory_names_a_smaller_micro_batch(
    error: Exception, kinds: Kinds, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, options = kinds["clm"]
    given = flags(options | SHORT)

    def full(trainer: Trainer, part: Any) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "compute_loss", full)
        done = run("pretrain", source, "--out", str(tmp_path / "run"), *given, "--json")
    assert done.code == 4
    assert json.loads(done.out)["error"]["code"] == "BG406"
    assert "--micro-batch-size 4" in json.loads(done.out)["error"]["hint"]
    assert run("pretrain", source, "--out", str(tmp_path / "run"), *given, "--micro-batch-size", "4").code == 0


def test_a_held_out_loss_that_is_no_number_is_no_result(
    kinds: Kinds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, options = kinds["clm"]
    terms = Trainer.compute_loss

    def bad(trainer: Trainer, part: Any) -> Any:
        found = terms(trainer, part)
        if not trainer.model.training:
            found = {name: replace(term, loss=term.loss * float("inf")) for name, term in found.items()}
        return found

    monkeypatch.setattr(Trainer, "compute_loss", bad)
    with pytest.raises(BertGPTError, match="loss of val at step 5 is not finite"):
        bertgpt.pretrain(source, out=str(tmp_path / "run"), **(options | SHORT))
