"""A run that was stopped, wherever and however often, ends in the bytes of one that never was."""

import random
import signal
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import bertgpt
from bertgpt.trainer import Trainer
from bertgpt.training.checkpoints import Checkpoints
from tests.conftest import Outcome
from tests.fixtures.training import SHORT, assert_same, deterministic, flags, weights

Run = Callable[..., Outcome]
Kinds = dict[str, tuple[str, dict[str, Any]]]
HARD = SHORT | {"dropout": 0.1, "tokens_per_step": 512, "micro_batch_size": 8, "eval_every": 3}


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, time: int, how: Callable[[], None]) -> None:
    """Have something happen when a method is entered for the so-many-th time."""
    real, calls = getattr(owner, name), count(1)

    def entered(*given: Any, **named: Any) -> Any:
        if next(calls) == time:
            how()
        return real(*given, **named)

    monkeypatch.setattr(owner, name, entered)


def killed() -> None:
    raise RuntimeError("killed")


# Where a run is stopped: in a micro-batch of a step, while it looks at held-out rows, while it writes a checkpoint.
PLACES = [(Trainer, "terms"), (Trainer, "stopping"), (Checkpoints, "prune")]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("kind", ["clm", "mlm", "hybrid"])
def test_a_run_that_was_asked_to_stop_three_times(
    kind: str, optimizer: str, few: Kinds, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout and micro-batches, past the end of an epoch, at random moments of each place."""
    source, options = few[kind]
    given = flags(options | HARD | {"optimizer": optimizer})
    said = bertgpt.pretrain(source, out=str(tmp_path / "dry"), dry_run=True, **(options | HARD))
    assert all(value > 1 for name, value in said.items() if name.endswith("epochs"))
    assert run("pretrain", source, "--out", str(tmp_path / "straight"), *given).code == 0
    draws = random.Random(f"{kind} {optimizer}")
    codes = []
    for owner, name in PLACES:
        time = 1 if name == "prune" else draws.randint(3, 8)
        with monkeypatch.context() as patched:
            interrupt(patched, owner, name, time, lambda: signal.raise_signal(signal.SIGTERM))
            codes.append(run("pretrain", source, "--out", str(tmp_path / "stopped"), *given).code)
    assert codes == [143, 143, 143]
    assert run("pretrain", source, "--out", str(tmp_path / "stopped"), *given).code == 0
    assert_same(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_crashed(optimizer: str, few: Kinds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on from the last checkpoint, and what it had logged after that is not there twice."""
    source, options = few["clm"]
    options = options | HARD | {"optimizer": optimizer}
    bertgpt.pretrain(source, out=str(tmp_path / "straight"), **options)
    for time in (7, 6):
        with monkeypatch.context() as patched:
            interrupt(patched, Trainer, "train_step", time, killed)
            with pytest.raises(RuntimeError, match="killed"):
                bertgpt.pretrain(source, out=str(tmp_path / "broken"), **options)
    bertgpt.pretrain(source, out=str(tmp_path / "broken"), **options)
    assert_same(tmp_path / "straight", tmp_path / "broken")


@pytest.mark.parametrize("stop", [8, 11])
def test_stopped_at_the_end_of_an_epoch_or_before_the_last_step(
    stop: int, few: Kinds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of steps is right, and none is taken twice."""
    source, options = few["clm"]
    options = options | SHORT | {"save_every": stop}
    straight = bertgpt.pretrain(source, out=str(tmp_path / "straight"), **options)
    with monkeypatch.context() as patched:
        interrupt(patched, Trainer, "train_step", stop + 1, killed)
        with pytest.raises(RuntimeError, match="killed"):
            bertgpt.pretrain(source, out=str(tmp_path / "broken"), **options)
    taken = count()
    real = Trainer.train_step

    def counted(*given: Any) -> Any:
        next(taken)
        return real(*given)

    monkeypatch.setattr(Trainer, "train_step", counted)
    done = bertgpt.pretrain(source, out=str(tmp_path / "broken"), **options)
    assert next(taken) == 12 - stop
    assert done["steps"] == straight["steps"] == 12
    assert_same(tmp_path / "straight", tmp_path / "broken")
    bertgpt.pretrain(source, out=str(tmp_path / "broken"), **options)  # past the end: nothing to do
    assert next(taken) == 12 - stop + 1


def test_a_signal_that_scripts_have_their_background_ignore(
    kinds: Kinds, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops a run as any other does, and what is not finished is not published."""
    source, options = kinds["clm"]
    interrupt(monkeypatch, Trainer, "terms", 7, lambda: signal.raise_signal(signal.SIGINT))
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stopped = run("pretrain", source, "--out", str(tmp_path / "run"), *flags(options | SHORT))
    finally:
        signal.signal(signal.SIGINT, previous)
    assert stopped.code == 130
    assert "saved step" in stopped.err
    assert not (tmp_path / "run" / "final").exists()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_was_learned(
    signum: signal.Signals, code: int, kinds: Kinds, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step before the one that is being taken is saved, and it says how to go on."""
    source, options = kinds["clm"]
    with monkeypatch.context() as patched:
        interrupt(patched, Trainer, "terms", 7, lambda: signal.raise_signal(signum))
        stopped = run("pretrain", source, "--out", str(tmp_path / "run"), *flags(options | SHORT))
    assert stopped.code == code
    assert "saved step" in stopped.err
    assert "the same command goes on from there" in stopped.err
    assert '"status": "interrupted"' in (tmp_path / "run" / "run.json").read_text()


def test_looking_saving_and_logging_change_nothing(kinds: Kinds, tmp_path: Path) -> None:
    source, options = kinds["mlm"]
    options = options | SHORT | {"dropout": 0.1}
    often, seldom = dict.fromkeys(("eval_every", "save_every", "log_every"), 1), {"eval_every": 100, "save_every": 100}
    bertgpt.pretrain(source, out=str(tmp_path / "often"), **(options | often))
    bertgpt.pretrain(source, out=str(tmp_path / "seldom"), **(options | seldom))
    one, other = weights(tmp_path / "often"), weights(tmp_path / "seldom")
    assert all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("kind", ["clm", "mlm", "hybrid"])
def test_micro_batches_change_nothing_but_rounding(kind: str, kinds: Kinds, tmp_path: Path) -> None:
    source, options = kinds[kind]
    for name, micro in (("whole", 0), ("parts", 4)):
        bertgpt.pretrain(
            source, out=str(tmp_path / name), micro_batch_size=micro, **(options | SHORT | {"max_steps": 10})
        )
    one, other = deterministic(tmp_path / "whole"), deterministic(tmp_path / "parts")
    for a, b in zip(one, other, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-5)
    assert one[0]["grad_norm"] == pytest.approx(other[0]["grad_norm"], rel=1e-5)
    assert one[0]["loss"] == pytest.approx(other[0]["loss"], abs=1e-6)


def test_computing_again_changes_nothing(kinds: Kinds, tmp_path: Path) -> None:
    """Blocks that are computed again draw the same dropout."""
    source, options = kinds["mlm"]
    options = options | SHORT | {"dropout": 0.1, "max_steps": 4}
    bertgpt.pretrain(source, out=str(tmp_path / "kept"), **options)
    bertgpt.pretrain(source, out=str(tmp_path / "again"), activation_checkpointing=True, **options)
    one, other = weights(tmp_path / "kept"), weights(tmp_path / "again")
    assert all(one[name].equal(other[name]) for name in one)


def test_a_second_signal_ends_it_at_once(
    kinds: Kinds, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more is saved; the checkpoint from before is what there is."""
    source, options = kinds["clm"]

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    interrupt(monkeypatch, Trainer, "terms", 6, twice)
    done = run("pretrain", source, "--out", str(tmp_path / "run"), *flags(options | SHORT))
    assert done.code == 130
    assert "saved step" not in done.err
    newest = Checkpoints(tmp_path / "run" / "checkpoints").latest()
    assert newest is not None
    assert newest.name == "step-00000004"


def test_handlers_are_given_back_and_a_thread_needs_none(kinds: Kinds, tmp_path: Path) -> None:
    source, options = kinds["clm"]
    before = signal.getsignal(signal.SIGTERM)
    options = options | SHORT | {"max_steps": 2}
    bertgpt.pretrain(source, out=str(tmp_path / "here"), **options)
    assert signal.getsignal(signal.SIGTERM) is before
    thread = threading.Thread(target=bertgpt.pretrain, args=(source,), kwargs=options | {"out": str(tmp_path / "run")})
    thread.start()
    thread.join()
    assert_same(tmp_path / "here", tmp_path / "run")


def test_dropout_is_another_for_every_sample(kinds: Kinds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By seed, step and micro-batch, and whatever else was drawn meanwhile."""
    source, options = kinds["clm"]
    keys: dict[int, list[int]] = {}
    for seed in (1, 2):
        monkeypatch.setattr("bertgpt.trainer.seed_torch", lambda key, device, seed=seed: keys[seed].append(key))
        keys[seed] = []
        given = options | SHORT | {"max_steps": 4, "micro_batch_size": 4, "seed": seed}
        bertgpt.pretrain(source, out=str(tmp_path / str(seed)), **given)
    drawn = keys[1] + keys[2]
    assert len(drawn) == len(set(drawn)) == 2 * 4 * 2
