"""`bertgpt new`: a starter project that DVC runs with the installed package."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bertgpt.cli import app
from tests.conftest import Outcome
from tests.fixtures.forkserver import ForkServer

Run = Callable[..., Outcome]


def test_files_are_written_once(run: Run, tmp_path: Path) -> None:
    """Into a new folder or an empty one; another is left as it is."""
    project = tmp_path / "mine"
    assert run("new", str(project)).code == 0
    assert sorted(path.name for path in project.iterdir()) == [".gitignore", "README.md", "dvc.yaml", "params.yaml"]
    (project / "runs").mkdir()
    assert run("new", str(project)).code == 0  # nothing to do
    (project / "params.yaml").write_text("source: texts\n")
    again = run("new", str(project))
    assert (again.code, "error[BG213]" in again.err) == (2, True)
    assert (project / "params.yaml").read_text() == "source: texts\n"


def test_commands_of_the_pipeline_parse(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dvc")
    from dvc.repo import Repo

    assert run("new", str(tmp_path / "mine")).code == 0
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))  # the default is one folder for all projects
    stages = Repo.init(str(tmp_path / "mine"), no_scm=True).index.stages
    assert len(stages) == 8
    for stage in stages:
        words = shlex.split(stage.cmd.partition(" > ")[0])
        assert words[0] == "bertgpt"
        parsed = words[1:] if stage.name == "version" else [*words[1:], "--show-config"]
        assert app.run(parsed) == 0, stage.addressing


@pytest.mark.slow
def test_pipeline_runs_with_the_package_alone(run: Run, tmp_path: Path, forkserver: ForkServer, script: str) -> None:
    """To a report, and a second time without a stage but the one that asks for the version."""
    pytest.importorskip("dvc")
    project = tmp_path / "my project"
    assert run("new", str(project)).code == 0
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["shard"] |= {"limit-docs": 400, "vocab-size": 500, "shard-tokens": "20k", "val-fraction": 0.1}
    for name in ("gpt", "bert"):
        params["pretrain"][name] |= {"max-steps": 4, "warmup": 2, "eval-every": 2, "tokens-per-step": 512}
    params["eval"]["limit"] = 4
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    env = {"PATH": f"{Path(script).parent}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}

    def dvc(*argv: str) -> str:
        code, out, err = forkserver.run(list(argv), module="dvc", cwd=project, env=env, timeout=110)
        assert code == 0, out + err
        return out

    dvc("init", "--no-scm")
    dvc("repro")
    assert (project / "report.html").exists()
    again = dvc("repro")
    assert again.count("Running stage") == 1
    assert "Running stage 'version'" in again
