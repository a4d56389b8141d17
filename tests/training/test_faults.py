"""Faults of a run: full disks, changed options, concurrent runs, reruns."""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

import bertgpt
from bertgpt.trainer import Trainer
from bertgpt.training.checkpoints import Checkpoints, is_valid
from tests.conftest import Outcome
from tests.fixtures.training import (
    ReferenceRun,
    all_files,
    assert_identical_runs,
    final_weights,
    logged_metrics,
    run_status,
)

Run = Callable[..., Outcome]


# ------------------------------------------------------------------------------------------- full disks


def test_full_disk_during_a_checkpoint_keeps_the_previous_one(
    reference: ReferenceRun, tmp_path: Path, run: Run, run_forked: Callable[..., Outcome]
) -> None:
    """The first checkpoint, without optimizer state, fits; the next one does not."""
    out = tmp_path / "run"
    done = run_forked(reference.argv(out), "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (300_000, 300_000))")
    assert done.code == 4
    assert f"error[BG403]: the disk is full: {out / 'checkpoints' / 'step-00000002'}" in done.err
    assert re.search(r"about [67]\d{2},\d{3} bytes are needed, [\d,]+ are free", done.err)
    assert "Traceback" not in done.err
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000000"]
    assert is_valid(out / "checkpoints" / "step-00000000")
    assert run_status(out) == "interrupted"
    assert run(*reference.argv(out)).code == 0
    assert run_status(out) == "done"
    assert_identical_runs(reference.uninterrupted, out)


def test_nearly_full_disk_is_detected_before_writing(
    reference: ReferenceRun, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was filled by another program since the run started."""
    out = shutil.copytree(reference.interrupted, tmp_path / "run")
    train_step, usage = Trainer.train_step, shutil.disk_usage(tmp_path)

    def fill_disk(trainer: Trainer, batch: Any) -> Any:
        if trainer.step == 5:
            patched.setattr(shutil, "disk_usage", lambda path: usage._replace(free=400_000))
        return train_step(trainer, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", fill_disk)
        done = run(*reference.argv(out))
    assert done.code == 4
    assert "error[BG403]" in done.err
    assert re.search(r"about [67]\d{2},\d{3} bytes are needed, 400,000 are free", done.err)
    assert sorted(path.name for path in (out / "checkpoints").glob("step*")) == ["step-00000002", "step-00000004"]
    assert run_status(out) == "interrupted"
    assert run(*reference.argv(out)).code == 0
    assert_identical_runs(reference.uninterrupted, out)


def test_full_disk_while_publishing_keeps_the_last_checkpoint(
    reference: ReferenceRun, tmp_path: Path, run: Run, run_forked: Callable[..., Outcome]
) -> None:
    """The model is written by safetensors, whose errors have no errno, only text."""
    out = shutil.copytree(reference.uninterrupted, tmp_path / "run")
    shutil.rmtree(out / "final")
    done = run_forked(reference.argv(out), "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (100_000, 100_000))")
    assert done.code == 4
    assert f"error[BG403]: the disk is full: {out}" in done.err
    assert not (out / "final").exists()
    assert run(*reference.argv(out)).code == 0
    assert_identical_runs(reference.uninterrupted, out)


def test_full_disk_for_log_txt_ends_the_run(reference: ReferenceRun, tmp_path: Path, run: Run) -> None:
    """With an error, and without loss."""
    out = shutil.copytree(reference.interrupted, tmp_path / "run")
    (out / "log.txt").unlink()
    (out / "log.txt").symlink_to("/dev/full")
    done = run(*reference.argv(out))
    assert done.code == 4
    assert "error[BG403]: the disk is full" in done.err
    assert run_status(out) == "interrupted"
    (out / "log.txt").unlink()
    assert run(*reference.argv(out)).code == 0
    assert_identical_runs(reference.uninterrupted, out)


# -------------------------------------------------------------------------------------- changed options


@pytest.fixture(scope="module")
def other_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same texts with another tokenizer."""
    folder = tmp_path_factory.mktemp("other") / "shards"
    bertgpt.shard("tinyworld", out=str(folder), limit_docs=30, train_tokenizer="bpe", vocab_size=300, val_fraction=0.2)
    return str(folder)


CHANGES: list[tuple[dict[str, Any], list[str]]] = [
    ({"preset": "modern-gpt-tiny"}, ["preset was test-gpt, is now modern-gpt-tiny", "model.dim was 32, is now 256"]),
    ({"seq_len": 16}, ["options.seq_len was 32, is now 16"]),
    ({"optimizer": "muon"}, ["options.optimizer was adamw, is now muon"]),
    ({"seed": 7, "lr": 0.01}, ["options.seed was 1337, is now 7", "options.lr was 0.002, is now 0.01"]),
    ({"max_steps": 10}, ["options.max_steps was 8, is now 10", "steps was 8, is now 10"]),
    ({"dropout": 0.0}, ["options.dropout was 0.1, is now 0.0", "model.dropout was 0.1, is now 0.0"]),
]  # fmt: skip


@pytest.mark.parametrize("which", ["uninterrupted", "interrupted"])
def test_run_with_different_options_is_refused_and_untouched(
    which: str, reference: ReferenceRun, tmp_path: Path, run: Run, other_shards: str
) -> None:
    """The error names every difference, and no file changes, whether the run is finished or not."""
    out = shutil.copytree(getattr(reference, which), tmp_path / "run")
    before = all_files(out)
    other_data = reference.argv(out)
    other_data[1] = other_shards
    expected = ["data_sha256 was ", "model.vocab_size was 400, is now 300"]
    for argv, texts in [
        (other_data, expected),
        *((reference.argv(out, **changed), texts) for changed, texts in CHANGES),
    ]:
        done = run(*argv)
        assert done.code == 2
        assert "error[BG213]" in done.err
        assert [text for text in texts if text not in done.err] == [], done.err
        assert "--overwrite" in done.err
        after = all_files(out)
        assert [name for name in after if before.get(name) != after[name]] in ([], ["run.lock"])
        assert before.keys() <= after.keys()


def test_mutable_options_may_change_on_resume(reference: ReferenceRun, tmp_path: Path, run: Run) -> None:
    """With a note that names them, once."""
    out = shutil.copytree(reference.interrupted, tmp_path / "run")
    done = run(*reference.argv(out, log_every=4, eval_every=4, save_every=1))
    assert done.code == 0
    assert "log_every was 1, is now 4" in done.err
    assert "eval_every was 3, is now 4" in done.err
    one, other = final_weights(reference.uninterrupted), final_weights(out)
    assert all(one[name].equal(other[name]) for name in one)
    assert [(line["step"], line["split"]) for line in logged_metrics(out)][-3:] == [
        (4, "val"),
        (8, "train"),
        (8, "val"),
    ]
    assert yaml.safe_load((out / "config.yaml").read_text())["mutable"]["log_every"] == 4
    assert "is now" not in run(*reference.argv(out, log_every=4, eval_every=4, save_every=1)).err


@pytest.mark.parametrize("which", ["uninterrupted", "interrupted"])
def test_overwrite_if_changed_starts_over_only_if_changed(
    which: str, reference: ReferenceRun, tmp_path: Path, run: Run
) -> None:
    out = shutil.copytree(getattr(reference, which), tmp_path / "run")
    done = run(*reference.argv(out), "--overwrite-if-changed")
    assert done.code == 0
    assert "starting over" not in done.err
    assert_identical_runs(reference.uninterrupted, out)
    assert run(*reference.argv(tmp_path / "other", lr=0.01)).code == 0
    done = run(*reference.argv(out, lr=0.01), "--overwrite-if-changed")
    assert done.code == 0
    assert "starting over: options.lr was 0.002, is now 0.01" in done.err
    assert_identical_runs(tmp_path / "other", out)


@pytest.mark.parametrize("config", ["valid", "missing", "corrupt"])
def test_overwrite_removes_everything_of_the_old_run(
    config: str, reference: ReferenceRun, tmp_path: Path, run: Run
) -> None:
    """Which had other options, was killed several times, and has its checkpoints on another disk."""
    out, large = tmp_path / "run", tmp_path / "large"
    assert run(*reference.argv(out, seed=7)).code == 0
    shutil.move(out / "checkpoints", large)
    (out / "checkpoints").symlink_to(large)
    (large / "step-00000008").rename(large / "step-00000099")
    for name in ("diverged.json", "metrics.tmp", ".final.tmp/tokenizer/vocab.txt", "log.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("of the old run")
    if config == "missing":
        (out / "config.yaml").unlink()
    if config == "corrupt":
        (out / "config.yaml").write_text("[")
    assert run(*reference.argv(out), "--overwrite").code == 0
    assert_identical_runs(reference.uninterrupted, out)
    assert all_files(large).keys() == all_files(reference.uninterrupted / "checkpoints").keys()
    assert all_files(out).keys() == {
        name for name in all_files(reference.uninterrupted) if not name.startswith("checkpoints")
    }
    assert "of the old run" not in (out / "log.txt").read_text()


def test_run_without_checkpoints_starts_over(reference: ReferenceRun, tmp_path: Path, run: Run) -> None:
    """Nothing is logged twice."""
    out = shutil.copytree(reference.interrupted, tmp_path / "run")
    shutil.rmtree(out / "checkpoints")
    assert run(*reference.argv(out)).code == 0
    assert_identical_runs(reference.uninterrupted, out)


# ----------------------------------------------------------------------------- concurrent runs and reruns


def test_concurrent_run_is_refused(
    reference: ReferenceRun,
    tmp_path: Path,
    run: Run,
    run_forked: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even with --overwrite; the error names the process that holds the lock, and the first run is not affected."""
    out = tmp_path / "run"
    train_step, second_runs = Trainer.train_step, []

    def run_another(trainer: Trainer, batch: Any) -> Any:
        if trainer.step == 5:
            before = all_files(out)
            second_runs.extend([run_forked(reference.argv(out)), run_forked([*reference.argv(out), "--overwrite"])])
            assert all_files(out) == before
        return train_step(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", run_another)
    assert run(*reference.argv(out)).code == 0
    assert [done.code for done in second_runs] == [6, 6]
    for done in second_runs:
        assert f"error[BG601]: another process is writing {out}" in done.err
        assert f"pid {os.getpid()} on" in done.err
    assert_identical_runs(reference.uninterrupted, out)


def test_lock_of_a_dead_process_is_released(
    reference: ReferenceRun, tmp_path: Path, run: Run, run_forked: Callable[..., Outcome]
) -> None:
    """It was killed, or its machine was; another process may have its pid by now."""
    out = tmp_path / "run"
    assert run_forked(reference.argv(out), BERTGPT_FAULT="checkpoint.model").code == -signal.SIGKILL
    assert (out / "run.lock").read_text().startswith("pid ")
    (out / "run.lock").write_text(f"pid {os.getppid()} on {'x' * 80}")
    assert run(*reference.argv(out)).code == 0
    assert_identical_runs(reference.uninterrupted, out)
    assert (out / "run.lock").read_text().startswith(f"pid {os.getpid()} on")
    assert "x" not in (out / "run.lock").read_text()


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training steps fail."""

    def refused(trainer: Trainer, batch: Any) -> Any:
        raise AssertionError("unexpected training step")

    monkeypatch.setattr(Trainer, "train_step", refused)


@pytest.mark.usefixtures("no_training")
def test_finished_run_has_nothing_to_do(reference: ReferenceRun, tmp_path: Path, run: Run) -> None:
    out = shutil.copytree(reference.uninterrupted, tmp_path / "run")
    before = all_files(out)
    done = run(*reference.argv(out))
    assert done.code == 0
    assert done.err == f"nothing to do: {out} is finished\n"
    assert "val" in done.out
    assert all_files(out) | {"run.lock": b""} == before | {"run.lock": b""}


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    "removed", [["metrics.json"], ["plots"], ["plots/val.tsv"], ["final"], ["final", "metrics.json", "plots"]]
)
def test_removed_outputs_are_restored(removed: list[str], reference: ReferenceRun, tmp_path: Path, run: Run) -> None:
    """From the last checkpoint and metrics.jsonl. Pipelines remove outputs before they rerun a stage."""
    out = shutil.copytree(reference.uninterrupted, tmp_path / "run")
    for path in (out / name for name in removed):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = run(*reference.argv(out))
    assert done.code == 0, done.err
    assert_identical_runs(reference.uninterrupted, out)
    assert run_status(out) == "done"


def test_run_killed_after_publishing_is_finished(
    reference: ReferenceRun, tmp_path: Path, run: Run, run_forked: Callable[..., Outcome]
) -> None:
    out = shutil.copytree(reference.uninterrupted, tmp_path / "run")
    metadata = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(metadata | {"status": "running"}))
    assert "nothing to do" in run(*reference.argv(out)).err
    assert run_status(out) == "done"


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_corrupt_run_json_is_ignored(content: str, reference: ReferenceRun, tmp_path: Path, run: Run) -> None:
    out = shutil.copytree(reference.interrupted, tmp_path / "run")
    (out / "run.json").write_text(content)
    assert run(*reference.argv(out)).code == 0
    assert run_status(out) == "done"
    assert_identical_runs(reference.uninterrupted, out)


def test_clock_set_back_does_not_matter(
    reference: ReferenceRun, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latest checkpoint is found by step, not by time."""
    out = shutil.copytree(reference.interrupted, tmp_path / "run")
    for age, folder in enumerate(reversed(Checkpoints(out / "checkpoints").all())):
        for path in (folder, *folder.iterdir()):
            os.utime(path, (10**9 - age * 10**6,) * 2)
    ticks = count(10**9, -86_400)
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    monkeypatch.setattr(time, "strftime", lambda *args: "1970-01-01 00:00:00")
    done = run(*reference.argv(out))
    assert done.code == 0
    assert "resuming from step 4" in done.err
    assert_identical_runs(reference.uninterrupted, out)
    assert all(
        line["seconds"] >= 0
        for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        if "seconds" in line
    )
