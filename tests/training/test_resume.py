"""Exact resume: a run that was stopped, anywhere and repeatedly, ends in the same bytes as an uninterrupted one."""

import random
import signal
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import bertgpt
from bertgpt.trainer import TIMING_STEPS, TIMING_WARMUP, Trainer
from bertgpt.training.checkpoints import Checkpoints
from tests.conftest import Outcome
from tests.fixtures.training import SHORT_RUN, TrainingData, assert_identical_runs, final_weights, flags, logged_metrics

Run = Callable[..., Outcome]

INTERRUPTIBLE = SHORT_RUN | {"dropout": 0.1, "tokens_per_step": 512, "micro_batch_size": 8, "eval_every": 3}


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, nth: int, action: Callable[[], None]) -> None:
    """Run an action before the nth call of a method."""
    real, calls = getattr(owner, name), count(1)

    def called(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == nth:
            action()
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


def killed() -> None:
    raise RuntimeError("killed")


# Where a run is stopped: in a micro-batch of a step, during validation, while it saves a checkpoint.
STOP_POINTS = [(Trainer, "compute_loss"), (Trainer, "should_stop"), (Checkpoints, "prune")]


@pytest.mark.parametrize(
    ("objective", "optimizer"),
    [
        ("clm", "adamw"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (("mlm", "adamw"), ("hybrid", "adamw"), ("clm", "muon"), ("mlm", "muon"), ("hybrid", "muon"))
        ),
    ],
)
def test_run_stopped_three_times_resumes_exactly(
    objective: str,
    optimizer: str,
    tiny_training_data: TrainingData,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With dropout and gradient accumulation, over more than one epoch, at a random call of each stop point."""
    source, options = tiny_training_data[objective]
    run_options = flags(options | INTERRUPTIBLE | {"optimizer": optimizer})
    plan = bertgpt.pretrain(source, out=str(tmp_path / "dry"), dry_run=True, **(options | INTERRUPTIBLE))
    assert all(value > 1 for name, value in plan.items() if name.endswith("epochs"))
    assert run("pretrain", source, "--out", str(tmp_path / "uninterrupted"), *run_options).code == 0
    draws = random.Random(f"{objective} {optimizer}")
    codes = []
    for owner, name in STOP_POINTS:
        nth = 1 if name == "prune" else draws.randint(3, 8)
        with monkeypatch.context() as patched:
            interrupt(patched, owner, name, nth, lambda: signal.raise_signal(signal.SIGTERM))
            codes.append(run("pretrain", source, "--out", str(tmp_path / "stopped"), *run_options).code)
    assert codes == [143, 143, 143]
    assert run("pretrain", source, "--out", str(tmp_path / "stopped"), *run_options).code == 0
    assert_identical_runs(tmp_path / "uninterrupted", tmp_path / "stopped")


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def test_crashed_run_resumes_exactly(
    optimizer: str, tiny_training_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the last checkpoint; no line of metrics.jsonl is there twice."""
    source, options = tiny_training_data["clm"]
    options = options | INTERRUPTIBLE | {"optimizer": optimizer}
    bertgpt.pretrain(source, out=str(tmp_path / "uninterrupted"), **options)
    for nth in (7, 6):
        with monkeypatch.context() as patched:
            interrupt(patched, Trainer, "train_step", nth, killed)
            with pytest.raises(RuntimeError, match="killed"):
                bertgpt.pretrain(source, out=str(tmp_path / "broken"), **options)
    bertgpt.pretrain(source, out=str(tmp_path / "broken"), **options)
    assert_identical_runs(tmp_path / "uninterrupted", tmp_path / "broken")


@pytest.mark.parametrize("stop", [8, 11])
def test_run_stopped_at_epoch_end_or_before_last_step_resumes_exactly(
    stop: int, tiny_training_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of steps is right, and no step is repeated."""
    source, options = tiny_training_data["clm"]
    options = options | SHORT_RUN | {"save_every": stop}
    uninterrupted = bertgpt.pretrain(source, out=str(tmp_path / "uninterrupted"), **options)
    with monkeypatch.context() as patched:
        interrupt(patched, Trainer, "train_step", stop + 1, killed)
        with pytest.raises(RuntimeError, match="killed"):
            bertgpt.pretrain(source, out=str(tmp_path / "broken"), **options)
    steps = count()
    real = Trainer.train_step

    def counted(*args: Any) -> Any:
        next(steps)
        return real(*args)

    monkeypatch.setattr(Trainer, "train_step", counted)
    done = bertgpt.pretrain(source, out=str(tmp_path / "broken"), **options)
    assert next(steps) == 12 - stop
    assert done["steps"] == uninterrupted["steps"] == 12
    assert_identical_runs(tmp_path / "uninterrupted", tmp_path / "broken")
    bertgpt.pretrain(source, out=str(tmp_path / "broken"), **options)  # finished: nothing to do
    assert next(steps) == 12 - stop + 1


def test_resumed_run_measures_its_speed_anew(
    training_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over as many steps as a run from the start, so that a single slow one does not decide the number of steps."""
    source, options = training_data["clm"]
    given = {key: value for key, value in (options | SHORT_RUN).items() if key != "max_steps"} | {"max_time": "0.1m"}
    seconds = iter([0.1] * 18 + [0.5] * TIMING_WARMUP + [1.0] + [0.1] * 100)
    spent = [0.0]
    real = Trainer.train_step

    def timed(trainer: Trainer, batch: Any) -> Any:
        if trainer.step == 18 and len(spent) == 1:
            spent[:] = [0.0, 0.0]
            raise RuntimeError("killed")
        spent[0] += next(seconds)
        return real(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", timed)
    monkeypatch.setattr("bertgpt.training.timer.Timer.seconds", lambda clock, account: spent[0])
    with pytest.raises(RuntimeError, match="killed"):
        bertgpt.pretrain(source, out=str(tmp_path / "run"), **given)
    per_step = (1.0 + 14 * 0.1) / (TIMING_STEPS - TIMING_WARMUP)
    steps = 16 + TIMING_STEPS + round((6 - 5 * 0.5 - 2.4) / per_step)
    assert bertgpt.pretrain(source, out=str(tmp_path / "run"), **given)["steps"] == steps


def test_signal_stops_run_also_where_it_is_ignored(
    training_data: TrainingData, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SIGINT is for background jobs of scripts. An unfinished run publishes nothing."""
    source, options = training_data["clm"]
    interrupt(monkeypatch, Trainer, "compute_loss", 7, lambda: signal.raise_signal(signal.SIGINT))
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stopped = run("pretrain", source, "--out", str(tmp_path / "run"), *flags(options | SHORT_RUN))
    finally:
        signal.signal(signal.SIGINT, previous)
    assert stopped.code == 130
    assert "saved step" in stopped.err
    assert not (tmp_path / "run" / "final").exists()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_checkpoint(
    signum: signal.Signals,
    code: int,
    training_data: TrainingData,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The step before the one that is being taken is saved, and it says how to go on."""
    source, options = training_data["clm"]
    with monkeypatch.context() as patched:
        interrupt(patched, Trainer, "compute_loss", 7, lambda: signal.raise_signal(signum))
        stopped = run("pretrain", source, "--out", str(tmp_path / "run"), *flags(options | SHORT_RUN))
    assert stopped.code == code
    assert "saved step" in stopped.err
    assert "rerun to resume" in stopped.err
    assert '"status": "interrupted"' in (tmp_path / "run" / "run.json").read_text()


def test_validation_saving_and_logging_do_not_change_training(training_data: TrainingData, tmp_path: Path) -> None:
    source, options = training_data["mlm"]
    options = options | SHORT_RUN | {"dropout": 0.1}
    often, seldom = dict.fromkeys(("eval_every", "save_every", "log_every"), 1), {"eval_every": 100, "save_every": 100}
    bertgpt.pretrain(source, out=str(tmp_path / "often"), **(options | often))
    bertgpt.pretrain(source, out=str(tmp_path / "seldom"), **(options | seldom))
    one, other = final_weights(tmp_path / "often"), final_weights(tmp_path / "seldom")
    assert all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("objective", ["clm", "mlm", "hybrid"])
def test_gradient_accumulation_changes_only_rounding(
    objective: str, training_data: TrainingData, tmp_path: Path
) -> None:
    source, options = training_data[objective]
    for name, micro in (("one_batch", 0), ("accumulated", 4)):
        bertgpt.pretrain(
            source, out=str(tmp_path / name), micro_batch_size=micro, **(options | SHORT_RUN | {"max_steps": 10})
        )
    one, other = logged_metrics(tmp_path / "one_batch"), logged_metrics(tmp_path / "accumulated")
    for a, b in zip(one, other, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-5)
    assert one[0]["grad_norm"] == pytest.approx(other[0]["grad_norm"], rel=1e-5)
    assert one[0]["loss"] == pytest.approx(other[0]["loss"], abs=1e-6)


def test_activation_checkpointing_changes_nothing(training_data: TrainingData, tmp_path: Path) -> None:
    """Recomputed blocks draw the same dropout mask."""
    source, options = training_data["mlm"]
    options = options | SHORT_RUN | {"dropout": 0.1, "max_steps": 4}
    bertgpt.pretrain(source, out=str(tmp_path / "stored"), **options)
    bertgpt.pretrain(source, out=str(tmp_path / "recomputed"), activation_checkpointing=True, **options)
    one, other = final_weights(tmp_path / "stored"), final_weights(tmp_path / "recomputed")
    assert all(one[name].equal(other[name]) for name in one)


def test_second_signal_kills_at_once(
    training_data: TrainingData, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkpoint is saved; the previous one remains."""
    source, options = training_data["clm"]

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    interrupt(monkeypatch, Trainer, "compute_loss", 6, twice)
    done = run("pretrain", source, "--out", str(tmp_path / "run"), *flags(options | SHORT_RUN))
    assert done.code == 130
    assert "saved step" not in done.err
    latest = Checkpoints(tmp_path / "run" / "checkpoints").latest()
    assert latest is not None
    assert latest.name == "step-00000004"


def test_signal_handlers_are_restored_and_not_needed_in_threads(training_data: TrainingData, tmp_path: Path) -> None:
    source, options = training_data["clm"]
    before = signal.getsignal(signal.SIGTERM)
    options = options | SHORT_RUN | {"max_steps": 2}
    bertgpt.pretrain(source, out=str(tmp_path / "main"), **options)
    assert signal.getsignal(signal.SIGTERM) is before
    thread = threading.Thread(
        target=bertgpt.pretrain, args=(source,), kwargs=options | {"out": str(tmp_path / "thread")}
    )
    thread.start()
    thread.join()
    assert_identical_runs(tmp_path / "main", tmp_path / "thread")


def test_dropout_seed_differs_by_micro_batch(
    training_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by step and seed, independently of other random draws."""
    source, options = training_data["clm"]
    keys: dict[int, list[int]] = {}
    for seed in (1, 2):
        monkeypatch.setattr("bertgpt.trainer.seed_torch", lambda key, device, seed=seed: keys[seed].append(key))
        keys[seed] = []
        run_options = options | SHORT_RUN | {"max_steps": 4, "micro_batch_size": 4, "seed": seed}
        bertgpt.pretrain(source, out=str(tmp_path / str(seed)), **run_options)
    used = keys[1] + keys[2]
    assert len(used) == len(set(used)) == 2 * 4 * 2
