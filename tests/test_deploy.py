"""Container files and the deploy script, as far as they can be tested without an engine or another machine."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "deploy" / "train-on"


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_image_runs_unprivileged_and_keeps_caches(name: str) -> None:
    lines = [line for line in (ROOT / "deploy" / f"{name}.Dockerfile").read_text().splitlines() if line[:1].isalpha()]
    assert lines[0].startswith("FROM ")
    user = next(i for i, line in enumerate(lines) if line.startswith("USER "))
    assert lines[user] not in ("USER root", "USER 0")
    assert not any(line.startswith(("RUN", "COPY")) for line in lines[user:])
    assert 'VOLUME ["/data", "/cache"]' in lines
    [caches] = [line for line in lines if line.startswith("ENV ")]
    assert all(place.startswith("/cache") for place in re.findall(r"=(\S+)", caches))


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_image_copies_existing_files(name: str) -> None:
    text = (ROOT / "deploy" / f"{name}.Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    let_in = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert copied
    assert all((ROOT / each).exists() for each in copied)
    assert set(copied) <= set(let_in)
    built = re.findall(r"include = \[(.*)\]", (ROOT / "pyproject.toml").read_text())[0]
    assert set(re.findall(r'"([^"]+)"', built)) <= set(let_in)  # what a wheel is built from


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "deploy/train-on HOST RECIPE"),
        (["host", "nonsense"], "no such recipe: nonsense; recipes: bert-base-scratch"),
        (["host", "gpt2-fineweb", "a; rm -rf b"], "FOLDER may only contain letters"),
    ],
)
def test_script_refuses_before_connecting(argv: list[str], message: str) -> None:
    done = subprocess.run([str(SCRIPT), *argv], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 2
    assert message in done.stderr


def test_script_is_valid_bash() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0
    assert SCRIPT.stat().st_mode & 0o111
