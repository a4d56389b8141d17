"""The default pipeline under real DVC, in a copy of the tracked files, as a fresh clone would have it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

pytest.importorskip("dvc")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git would put into a clone, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("clone")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for argv in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "clone"]):
        subprocess.run([*git, *argv], cwd=folder, check=True)
    return folder


def dvc(clone: Path, *argv: str) -> str:
    env = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(clone),
        "DVC_NO_ANALYTICS": "1",
    }
    done = subprocess.run([sys.executable, "-m", "dvc", *argv], cwd=clone, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(1800)  # all of the pipeline, twice
def test_repro_is_green_once_and_idle_twice(clone: Path) -> None:
    dvc(clone, "repro")
    first = (clone / "dvc.lock").read_text()
    assert (clone / "data" / "shards" / "manifest.json").exists()
    sample = (clone / "data" / "tinyworld-sample.txt").read_text(encoding="utf-8")
    assert sample.startswith("document 0 · ")
    assert "didn't change, skipping" in dvc(clone, "repro")
    assert (clone / "dvc.lock").read_text() == first
    dvc(clone, "repro", "--force")
    assert (clone / "dvc.lock").read_text() == first
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True).stdout
    assert changed.split() in ([], ["??", "dvc.lock"])


def test_a_stage_knows_its_code() -> None:
    """What DVC watches is what runs and work folders compare: else one would think a result stale, the other not."""
    from bertgpt import finetuning
    from bertgpt.pretraining import CODE
    from bertgpt.shards.work import STAGE_CODE

    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

    def watched(stage: dict[str, list[str]]) -> set[str]:
        return {dep.removeprefix("bertgpt/") for dep in stage["deps"] if dep.startswith("bertgpt/")}

    assert watched(stages["tokenize"]) == set(STAGE_CODE)
    assert watched(stages["pretrain"]["do"]) == set(CODE)
    assert watched(stages["finetune"]["do"]) == set(finetuning.CODE)
