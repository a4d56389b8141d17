"""What may befall a run, and what must not come of it: full disks, other options, two at once, a second time."""

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
from tests.fixtures.training import Example, assert_same, content, deterministic, status, weights

Run = Callable[..., Outcome]


# ------------------------------------------------------------------------------------------- full disks


def test_a_disk_that_fills_up_costs_no_checkpoint(
    example: Example, tmp_path: Path, run: Run, elsewhere: Callable[..., Outcome]
) -> None:
    """F18: the first checkpoint, which has no moments, fits; of the next one only the weights do."""
    out = tmp_path / "run"
    done = elsewhere(example.argv(out), "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (5 << 20, 5 << 20))")
    assert done.code == 4
    assert f"error[BG403]: the disk is full: {out / 'checkpoints' / 'step-00000002'}" in done.err
    assert re.search(r"about 1[01],\d{3},\d{3} bytes are needed, [\d,]+ are free", done.err)
    assert "Traceback" not in done.err
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000000"]
    assert is_valid(out / "checkpoints" / "step-00000000")
    assert status(out) == "interrupted"
    assert run(*example.argv(out)).code == 0
    assert status(out) == "done"
    assert_same(example.straight, out)


def test_a_disk_that_is_nearly_full_is_found_out_before(
    example: Example, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F18: nothing is written that cannot be finished; somebody else has filled the disk since the run began."""
    out = shutil.copytree(example.stopped, tmp_path / "run")
    step, usage = Trainer.train_step, shutil.disk_usage(tmp_path)

    def filling(trainer: Trainer, batch: Any) -> Any:
        if trainer.step == 5:
            patched.setattr(shutil, "disk_usage", lambda path: usage._replace(free=9_000_000))
        return step(trainer, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", filling)
        done = run(*example.argv(out))
    assert done.code == 4
    assert "error[BG403]" in done.err
    assert re.search(r"about 1[01],\d{3},\d{3} bytes are needed, 9,000,000 are free", done.err)
    assert sorted(path.name for path in (out / "checkpoints").glob("step*")) == ["step-00000002", "step-00000004"]
    assert status(out) == "interrupted"
    assert run(*example.argv(out)).code == 0
    assert_same(example.straight, out)


def test_a_disk_that_fills_up_at_the_end_keeps_the_last_checkpoint(
    example: Example, tmp_path: Path, run: Run, elsewhere: Callable[..., Outcome]
) -> None:
    """Where the finished model is written, which is done by safetensors: its error has no number, only words."""
    out = shutil.copytree(example.straight, tmp_path / "run")
    shutil.rmtree(out / "final")
    done = elsewhere(example.argv(out), "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (1 << 20, 1 << 20))")
    assert done.code == 4
    assert f"error[BG403]: the disk is full: {out}" in done.err
    assert not (out / "final").exists()
    assert run(*example.argv(out)).code == 0
    assert_same(example.straight, out)


def test_a_log_that_takes_nothing_ends_the_run(example: Example, tmp_path: Path, run: Run) -> None:
    """F19: not silently, and nothing is lost."""
    out = shutil.copytree(example.stopped, tmp_path / "run")
    (out / "log.txt").unlink()
    (out / "log.txt").symlink_to("/dev/full")
    done = run(*example.argv(out))
    assert done.code == 4
    assert "error[BG403]: the disk is full" in done.err
    assert status(out) == "interrupted"
    (out / "log.txt").unlink()
    assert run(*example.argv(out)).code == 0
    assert_same(example.straight, out)


# ---------------------------------------------------------------------------------------- other options


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same texts as other ids."""
    folder = tmp_path_factory.mktemp("others") / "shards"
    bertgpt.shard("tinyworld", out=str(folder), limit_docs=30, train_tokenizer="bpe", vocab_size=300, val_fraction=0.2)
    return str(folder)


CHANGES: list[tuple[dict[str, Any], list[str]]] = [
    ({"preset": "modern-gpt-tiny"}, ["preset was tiny-gpt, is now modern-gpt-tiny", "model.dim was 128, is now 256"]),
    ({"seq_len": 16}, ["options.seq_len was 32, is now 16"]),
    ({"optimizer": "muon"}, ["options.optimizer was adamw, is now muon"]),
    ({"seed": 7, "lr": 0.01}, ["options.seed was 1337, is now 7", "options.lr was 0.002, is now 0.01"]),
    ({"max_steps": 10}, ["options.max_steps was 8, is now 10", "steps was 8, is now 10"]),
    ({"dropout": 0.0}, ["options.dropout was 0.1, is now 0.0", "model.dropout was 0.1, is now 0.0"]),
]  # fmt: skip


@pytest.mark.parametrize("which", ["straight", "stopped"])
def test_a_run_that_was_begun_otherwise_is_refused_and_left_as_it_was(
    which: str, example: Example, tmp_path: Path, run: Run, others: str
) -> None:
    """F27, F36: every difference is named, and nothing at all is touched, be the run finished or not."""
    out = shutil.copytree(getattr(example, which), tmp_path / "run")
    before = content(out)
    data = example.argv(out)
    data[1] = others
    wanted = ["data_sha256 was ", "model.vocab was 400, is now 300"]
    for argv, said in [(data, wanted), *((example.argv(out, **changed), said) for changed, said in CHANGES)]:
        done = run(*argv)
        assert done.code == 2
        assert "error[BG213]" in done.err
        assert [text for text in said if text not in done.err] == [], done.err
        assert "--overwrite" in done.err
        after = content(out)
        assert [name for name in after if before.get(name) != after[name]] in ([], ["run.lock"])
        assert before.keys() <= after.keys()


def test_what_changes_no_weight_may_change_while_a_run_goes_on(example: Example, tmp_path: Path, run: Run) -> None:
    """F27: with a note that names it, once."""
    out = shutil.copytree(example.stopped, tmp_path / "run")
    done = run(*example.argv(out, log_every=4, eval_every=4, save_every=1))
    assert done.code == 0
    assert "log_every was 1, is now 4" in done.err
    assert "eval_every was 3, is now 4" in done.err
    one, other = weights(example.straight), weights(out)
    assert all(one[name].equal(other[name]) for name in one)
    assert [(line["step"], line["split"]) for line in deterministic(out)][-3:] == [(4, "val"), (8, "train"), (8, "val")]
    assert yaml.safe_load((out / "config.yaml").read_text())["mutable"]["log_every"] == 4
    assert "is now" not in run(*example.argv(out, log_every=4, eval_every=4, save_every=1)).err


@pytest.mark.parametrize("which", ["straight", "stopped"])
def test_fresh_if_changed_begins_anew_only_then(which: str, example: Example, tmp_path: Path, run: Run) -> None:
    out = shutil.copytree(getattr(example, which), tmp_path / "run")
    done = run(*example.argv(out), "--overwrite-if-changed")
    assert done.code == 0
    assert "begins anew" not in done.err
    assert_same(example.straight, out)
    assert run(*example.argv(tmp_path / "other", lr=0.01)).code == 0
    done = run(*example.argv(out, lr=0.01), "--overwrite-if-changed")
    assert done.code == 0
    assert "begins anew: options.lr was 0.002, is now 0.01" in done.err
    assert_same(tmp_path / "other", out)


@pytest.mark.parametrize("config", ["there", "gone", "broken"])
def test_fresh_leaves_nothing_of_the_old_run(config: str, example: Example, tmp_path: Path, run: Run) -> None:
    """Of a run that trained otherwise, was killed here and there, and has its checkpoints on a larger disk."""
    out, large = tmp_path / "run", tmp_path / "large"
    assert run(*example.argv(out, seed=7)).code == 0
    shutil.move(out / "checkpoints", large)
    (out / "checkpoints").symlink_to(large)
    (large / "step-00000008").rename(large / "step-00000099")
    for name in ("diverged.json", "metrics.tmp", ".final.tmp/tokenizer/vocab.txt", "log.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("of the old run")
    if config == "gone":
        (out / "config.yaml").unlink()
    if config == "broken":
        (out / "config.yaml").write_text("[")
    assert run(*example.argv(out), "--overwrite").code == 0
    assert_same(example.straight, out)
    assert content(large).keys() == content(example.straight / "checkpoints").keys()
    assert content(out).keys() == {name for name in content(example.straight) if not name.startswith("checkpoints")}
    assert "of the old run" not in (out / "log.txt").read_text()


def test_a_run_whose_checkpoints_were_removed_begins_anew(example: Example, tmp_path: Path, run: Run) -> None:
    """What it had logged is not logged twice."""
    out = shutil.copytree(example.stopped, tmp_path / "run")
    shutil.rmtree(out / "checkpoints")
    assert run(*example.argv(out)).code == 0
    assert_same(example.straight, out)


# --------------------------------------------------------------------------------------- two, and again


def test_two_at_once(
    example: Example, tmp_path: Path, run: Run, elsewhere: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F35: the second is refused, even if it would begin anew, and told by whom; the first does not notice."""
    out = tmp_path / "run"
    step, seconds = Trainer.train_step, []

    def meanwhile(trainer: Trainer, batch: Any) -> Any:
        if trainer.step == 5:
            before = content(out)
            seconds.extend([elsewhere(example.argv(out)), elsewhere([*example.argv(out), "--overwrite"])])
            assert content(out) == before
        return step(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", meanwhile)
    assert run(*example.argv(out)).code == 0
    assert [second.code for second in seconds] == [6, 6]
    for second in seconds:
        assert f"error[BG601]: another process is writing {out}" in second.err
        assert f"pid {os.getpid()} on" in second.err
    assert_same(example.straight, out)


def test_the_lock_of_a_dead_process_is_free(
    example: Example, tmp_path: Path, run: Run, elsewhere: Callable[..., Outcome]
) -> None:
    """F35: it was killed, or its machine was; another process may have its number by now."""
    out = tmp_path / "run"
    assert elsewhere(example.argv(out), BERTGPT_FAULT="checkpoint.model").code == -signal.SIGKILL
    assert (out / "run.lock").read_text().startswith("pid ")
    (out / "run.lock").write_text(f"pid {os.getppid()} on {'x' * 80}")
    assert run(*example.argv(out)).code == 0
    assert_same(example.straight, out)
    assert (out / "run.lock").read_text().startswith(f"pid {os.getpid()} on")
    assert "x" not in (out / "run.lock").read_text()


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes a step."""

    def refused(trainer: Trainer, batch: Any) -> Any:
        raise AssertionError("a step is taken")

    monkeypatch.setattr(Trainer, "train_step", refused)


@pytest.mark.usefixtures("untrained")
def test_a_finished_run_has_nothing_to_do(example: Example, tmp_path: Path, run: Run) -> None:
    """F36."""
    out = shutil.copytree(example.straight, tmp_path / "run")
    before = content(out)
    done = run(*example.argv(out))
    assert done.code == 0
    assert done.err == f"nothing to do: {out} is finished\n"
    assert "held out" in done.out
    assert content(out) | {"run.lock": b""} == before | {"run.lock": b""}


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    "removed", [["metrics.json"], ["plots"], ["plots/val.tsv"], ["final"], ["final", "metrics.json", "plots"]]
)
def test_what_pipelines_remove_is_made_again(removed: list[str], example: Example, tmp_path: Path, run: Run) -> None:
    """F36: from the last checkpoint and the journal."""
    out = shutil.copytree(example.straight, tmp_path / "run")
    for path in (out / name for name in removed):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = run(*example.argv(out))
    assert done.code == 0, done.err
    assert_same(example.straight, out)
    assert status(out) == "done"


def test_a_run_that_was_killed_when_all_was_done_is_done(
    example: Example, tmp_path: Path, run: Run, elsewhere: Callable[..., Outcome]
) -> None:
    out = shutil.copytree(example.straight, tmp_path / "run")
    told = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(told | {"status": "running"}))
    assert "nothing to do" in run(*example.argv(out)).err
    assert status(out) == "done"


@pytest.mark.parametrize("broken", ["", "{", "[]"])
def test_run_json_is_for_people_and_decides_nothing(broken: str, example: Example, tmp_path: Path, run: Run) -> None:
    out = shutil.copytree(example.stopped, tmp_path / "run")
    (out / "run.json").write_text(broken)
    assert run(*example.argv(out)).code == 0
    assert status(out) == "done"
    assert_same(example.straight, out)


def test_a_clock_that_is_set_back(example: Example, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """F40: what is newest is decided by numbers of steps, not by times."""
    out = shutil.copytree(example.stopped, tmp_path / "run")
    for age, folder in enumerate(reversed(Checkpoints(out / "checkpoints").all())):
        for path in (folder, *folder.iterdir()):
            os.utime(path, (10**9 - age * 10**6,) * 2)
    ticks = count(10**9, -86_400)
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    monkeypatch.setattr(time, "strftime", lambda *given: "1970-01-01 00:00:00")
    done = run(*example.argv(out))
    assert done.code == 0
    assert "goes on after step 4" in done.err
    assert_same(example.straight, out)
    assert all(
        line["seconds"] >= 0
        for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        if "seconds" in line
    )
