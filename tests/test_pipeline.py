"""The default pipeline under real DVC, in a copy of the tracked files, as a fresh clone would have it.

All stages are run, on so little that each takes seconds; the `long` test runs them as they are.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
import yaml

from bertgpt.cli import app

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

pytest.importorskip("dvc")


LITTLE = {
    "tokenize": {"limit-docs": 700},
    "shard": {"shard-tokens": "20k"},
    "mask": {"seq-len": 128},
    "finetune": {"limit": 40, "epochs": 1, "seeds": 1},
    "eval": {"limit": 8},
    "pretrain": {
        name: {"max-steps": 6, "warmup": 2, "eval-every": 3, "tokens-per-step": 512}
        for name in ("gpt", "bert", "hybrid")
    },
    "generate": {name: {"max-new-tokens": 8} for name in ("gpt", "hybrid")},
}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The tracked files, committed, with small parameters."""
    folder = cloned(tmp_path)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for section, less in LITTLE.items():
        for name, value in less.items():
            params[section][name] = params[section][name] | value if isinstance(value, dict) else value
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    commit(folder)
    return folder


def cloned(tmp_path: Path) -> Path:
    """The tracked files, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    """Commit everything."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for argv in (["add", "-A"], ["commit", "-qm", "clone"]):
        subprocess.run([*git, *argv], cwd=folder, check=True)


def surroundings(clone: Path) -> dict[str, str]:
    """An environment in which `bertgpt` is this checkout."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(clone), "DVC_NO_ANALYTICS": "1"}


def dvc(clone: Path, *argv: str, code: int = 0) -> str:
    """Run DVC."""
    command = [sys.executable, "-m", "dvc", *argv]
    done = subprocess.run(command, cwd=clone, env=surroundings(clone), capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def table_values(page: str) -> list[str]:
    """The values of the results table."""
    table = page.partition('id="results"')[2].partition("</table>")[0]
    return re.findall(r'<td class="figure">([^<]*)</td>', table)


@pytest.mark.timeout(900)  # all stages
def test_repro_succeeds_and_is_idempotent(clone: Path) -> None:
    said = dvc(clone, "repro")
    first = (clone / "dvc.lock").read_text()
    assert (clone / "data" / "shards" / "manifest.json").exists()
    sample = (clone / "data" / "tinyworld-sample.txt").read_text(encoding="utf-8")
    assert sample.startswith("document 0 · ")
    page = (clone / "report.html").read_text(encoding="utf-8")
    assert "excess over the true entropy" in said
    printed = said.partition("val loss, CLM")[2]
    assert all(value in printed for value in table_values(page))
    scores = json.loads((clone / "results" / "gpt" / "tinyworld.json").read_text())["scores"]
    excess = scores["excess over the true entropy"]["value"]
    assert f"{100 * excess:.1f} %" in table_values(page)
    names, *rows = dvc(clone, "metrics", "show").splitlines()
    assert len(rows) == 3
    labels = ("excess over the true entropy", "share of the Bayes optimum", "sentiment, fine-tuned: accuracy")
    assert all(label in names for label in labels)

    assert "didn't change, skipping" in dvc(clone, "repro")
    assert (clone / "dvc.lock").read_text() == first
    assert "report" not in first.partition("stages:")[2].partition("deps:")[0]

    params = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(params.replace("eval:\n  limit: 8", "eval:\n  limit: 9"))
    planned = dvc(clone, "repro", "--dry")
    assert "Running stage 'eval@gpt'" in planned
    assert not re.search("Running stage '(tokenize|shard|mask|pretrain|finetune|generate)", planned)
    (clone / "params.yaml").write_text(params)

    dvc(clone, "remote", "add", "--local", "--default", "folder", str(clone.parent / "remote"))
    dvc(clone, "push")
    shutil.rmtree(clone / "runs")
    shutil.rmtree(clone / ".dvc" / "cache")
    dvc(clone, "pull")
    prompt = ["generate", "--model", "runs/gpt/final", "--prompt", "There", "--max-new-tokens", "4"]
    made = subprocess.run(
        [sys.executable, "-m", "bertgpt", *prompt], cwd=clone, env=surroundings(clone), capture_output=True, text=True
    )
    assert made.stdout.startswith("There"), made.stderr

    dvc(clone, "repro", "--force", "--single-item", "tokenize", "shard", "mask", "pretrain@bert", "finetune@bert")
    assert (clone / "dvc.lock").read_text() == first
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True).stdout
    assert set(changed.split()) <= {"??", "dvc.lock"}


STOPS = [signal.SIGINT, signal.SIGTERM]  # by Ctrl-C, and by whoever shuts a machine down
KILLS = [signal.SIGKILL] * 10


@pytest.mark.timeout(600)
@pytest.mark.parametrize("signals", [STOPS, pytest.param(KILLS, marks=pytest.mark.long)])
def test_stopped_pipeline_resumes(clone: Path, signals: list[signal.Signals]) -> None:
    """Within the stage that was stopped, which does not count as finished, to the same dvc.lock."""
    path, steps = clone / "params.yaml", 300 if signals == KILLS else 60  # more than all of them see
    params = yaml.safe_load(path.read_text())
    params["pretrain"]["gpt"] |= {"max-steps": steps, "eval-every": steps, "save-every": 20}
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    stages, lines = ["repro", "pretrain@gpt"], clone / "runs" / "gpt" / "metrics.jsonl"
    dvc(clone, *stages)
    straight = (clone / "dvc.lock").read_text()
    if signals == KILLS:  # anywhere in the pipeline
        (clone / "dvc.lock").unlink()
        gone = ("data/shards", "data/tokens", "runs", ".dvc/cache", ".dvc/tmp")
    else:
        (clone / "dvc.lock").write_text(straight.partition("  pretrain@gpt:")[0])
        gone = ("runs", ".dvc/cache/runs")
    for made in gone:
        shutil.rmtree(clone / made)
    random, command, nowhere = Random(0), [sys.executable, "-m", "dvc", *stages], subprocess.DEVNULL
    for number in signals:
        before = lines_in(lines)
        process = subprocess.Popen(
            command, cwd=clone, env=surroundings(clone), stdout=nowhere, stderr=nowhere, start_new_session=True
        )
        if number in STOPS:
            wait_until(lambda before=before: lines_in(lines) > before)
        else:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=random.uniform(2, 7))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        ended = process.wait(timeout=60)
        assert ended != 0
        if number in STOPS:
            assert "pretrain@gpt" not in (clone / "dvc.lock").read_text()
            wait_until(lambda: '"interrupted"' in (clone / "runs" / "gpt" / "run.json").read_text())
    dvc(clone, *stages)
    assert (clone / "dvc.lock").read_text() == straight
    if signals == STOPS:
        assert (clone / "runs" / "gpt" / "log.txt").read_text().count("resuming from step") == 2


def lines_in(file: Path) -> int:
    """The number of lines of a file; 0 if it does not exist."""
    return file.read_bytes().count(b"\n") if file.exists() else 0


def wait_until(so: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + 120
    while not so():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_full_pipeline(tmp_path: Path) -> None:
    """From a fresh clone to the report in less than eight minutes, and again to the same bytes."""
    clone, begun = cloned(tmp_path), time.monotonic()
    dvc(clone, "repro")
    assert time.monotonic() - begun < 480
    assert (clone / "report.html").exists()
    first = (clone / "dvc.lock").read_text()
    dvc(clone, "repro", "--force")
    assert (clone / "dvc.lock").read_text() == first


def test_every_stage_command_parses(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """params.yaml and the options agree."""
    from dvc.repo import Repo

    projects = [ROOT, *(file.parent for file in ROOT.glob("pipelines/*/dvc.yaml"))]  # recipes are projects of their own
    stages = [stage for project in projects for stage in Repo(str(project)).index.stages if stage.cmd]
    assert len(stages) > 50
    for stage in stages:
        monkeypatch.chdir(stage.wdir)
        for command in [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd:
            words = shlex.split(command.partition(" > ")[0])
            words = words[words.index("bertgpt") + 1 :]  # behind torchrun, where that starts it
            assert app.run([*words, "--show-config"]) == 0, (stage.addressing, capfd.readouterr().err)


def test_metrics_of_two_commits_can_be_compared() -> None:
    """`dvc metrics diff` and `exp show` find metrics by their hash: they are cached, not in git."""
    for file in (ROOT / "dvc.yaml", *ROOT.glob("pipelines/*/dvc.yaml")):
        stages = yaml.safe_load(file.read_text())["stages"]
        assert stages["report"]["metrics"]
        assert all(isinstance(path, str) for path in stages["report"]["metrics"]), file
