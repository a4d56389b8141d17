"""The default pipeline under real DVC, in a copy of the tracked files, as a fresh clone would have it.

All stages are run, on so little that each takes a second, and DVC and the stages as forked processes; the `exhaustive`
test runs them as they are.
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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import yaml

from bertgpt.cli import app
from tests.fixtures.forkserver import ForkedProcess, ForkServer

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

pytest.importorskip("dvc")


LITTLE = {
    "tokenize": {"limit-docs": 400, "vocab-size": 500},
    "shard": {"shard-tokens": "20k"},
    "mask": {"seq-len": 128},
    "finetune": {"limit": 40, "epochs": 1, "seeds": 1},
    "eval": {"limit": 4},
    "pretrain": {
        name: {"max-steps": 4, "warmup": 2, "eval-every": 2, "tokens-per-step": 512}
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


@dataclass
class CloneDVC:
    """A clone, and how to run commands in it."""

    folder: Path
    server: ForkServer
    env: Mapping[str, str]

    def dvc(self, *argv: str) -> str:
        """Run DVC, whose stages find `bertgpt` on PATH."""
        code, out, err = self.server.run(list(argv), module="dvc", cwd=self.folder, env=self.env, timeout=600)
        assert code == 0, out + err
        return out

    def start_dvc(self, *argv: str) -> ForkedProcess:
        """Start DVC without its output."""
        with Path(os.devnull).open("r+") as nothing:
            streams = (nothing.fileno(),) * 3
            return self.server.popen(list(argv), module="dvc", cwd=self.folder, env=self.env, streams=streams)


@pytest.fixture
def clone_dvc(clone: Path, forkserver: ForkServer) -> CloneDVC:
    """The clone, with forked processes: each has imported all that it needs."""
    scripts = clone.parent / "bin"
    scripts.mkdir()
    forkserver.write_script(scripts, "bertgpt")
    env = {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    return CloneDVC(clone, forkserver, env)


def real_dvc(clone: Path, *argv: str) -> None:
    """Run DVC and `bertgpt` as installed, with the code of the clone."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "PYTHONPATH": str(clone), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run([sys.executable, "-m", "dvc", *argv], cwd=clone, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def table_values(page: str) -> list[str]:
    """The values of the results table."""
    table = page.partition('id="results"')[2].partition("</table>")[0]
    return re.findall(r'<td class="figure">([^<]*)</td>', table)


@pytest.mark.slow
def test_repro_succeeds_and_is_idempotent(clone_dvc: CloneDVC) -> None:
    clone = clone_dvc.folder
    said = clone_dvc.dvc("repro")
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
    names, *rows = clone_dvc.dvc("metrics", "show").splitlines()
    assert len(rows) == 3
    labels = ("excess over the true entropy", "share of the Bayes optimum", "sentiment, fine-tuned: accuracy")
    assert all(label in names for label in labels)

    assert "didn't change, skipping" in clone_dvc.dvc("repro")
    assert (clone / "dvc.lock").read_text() == first
    assert "report" not in first.partition("stages:")[2].partition("deps:")[0]

    params = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(params.replace("eval:\n  limit: 4", "eval:\n  limit: 5"))
    planned = clone_dvc.dvc("repro", "--dry")
    assert "Running stage 'eval@gpt'" in planned
    assert not re.search("Running stage '(tokenize|shard|mask|pretrain|finetune|generate)", planned)


@pytest.mark.slow
def test_outputs_can_be_pushed_and_pulled(clone_dvc: CloneDVC) -> None:
    """And stages that are repeated write the same bytes."""
    clone = clone_dvc.folder
    stages = ["tokenize", "shard", "mask", "pretrain@bert", "pretrain@gpt", "finetune@bert"]
    clone_dvc.dvc("repro", *stages)
    first = (clone / "dvc.lock").read_text()
    clone_dvc.dvc("remote", "add", "--local", "--default", "folder", str(clone.parent / "remote"))
    clone_dvc.dvc("push", *stages)
    shutil.rmtree(clone / "runs")
    shutil.rmtree(clone / ".dvc" / "cache")
    clone_dvc.dvc("pull", *stages)
    prompt = ["generate", "--model", "runs/gpt/final", "--prompt", "There", "--max-new-tokens", "4"]
    assert clone_dvc.server.run(prompt, cwd=clone)[1].startswith("There")

    clone_dvc.dvc("repro", "--force", "--single-item", "tokenize", "shard", "mask", "pretrain@bert", "finetune@bert")
    assert (clone / "dvc.lock").read_text() == first
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True).stdout
    assert set(changed.split()) <= {"??", "dvc.lock"}


STOPS = [signal.SIGINT, signal.SIGTERM]  # by Ctrl-C, and by whoever shuts a machine down
KILLS = [signal.SIGKILL] * 10


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("signals", [STOPS, pytest.param(KILLS, marks=pytest.mark.exhaustive)])
def test_stopped_pipeline_resumes(clone_dvc: CloneDVC, signals: list[signal.Signals]) -> None:
    """Within the stage that was stopped, which does not count as finished, to the same dvc.lock."""
    clone = clone_dvc.folder
    path, steps = clone / "params.yaml", 300 if signals == KILLS else 60  # more than all of them see
    params = yaml.safe_load(path.read_text())
    params["pretrain"]["gpt"] |= {"max-steps": steps, "eval-every": steps, "save-every": 20}
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    stages, lines = ["repro", "pretrain@gpt"], clone / "runs" / "gpt" / "metrics.jsonl"
    clone_dvc.dvc(*stages)
    straight = (clone / "dvc.lock").read_text()
    if signals == KILLS:  # anywhere in the pipeline
        (clone / "dvc.lock").unlink()
        gone = ("data/shards", "data/tokens", "runs", ".dvc/cache", ".dvc/tmp")
    else:
        (clone / "dvc.lock").write_text(straight.partition("  pretrain@gpt:")[0])
        gone = ("runs", ".dvc/cache/runs")
    for made in gone:
        shutil.rmtree(clone / made)
    random = Random(0)
    for number in signals:
        before = lines_in(lines)
        process = clone_dvc.start_dvc(*stages)
        if number in STOPS:
            wait_until(lambda before=before: lines_in(lines) > before)
        else:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=random.uniform(1, 4))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        ended = process.wait(timeout=60)
        assert ended != 0
        if number in STOPS:
            assert "pretrain@gpt" not in (clone / "dvc.lock").read_text()
            wait_until(lambda: '"interrupted"' in (clone / "runs" / "gpt" / "run.json").read_text())
    clone_dvc.dvc(*stages)
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


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_full_pipeline(tmp_path: Path) -> None:
    """From a fresh clone to the report in less than eight minutes, and again to the same bytes."""
    clone, begun = cloned(tmp_path), time.monotonic()
    real_dvc(clone, "repro")
    assert time.monotonic() - begun < 480
    assert (clone / "report.html").exists()
    first = (clone / "dvc.lock").read_text()
    real_dvc(clone, "repro", "--force")
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
