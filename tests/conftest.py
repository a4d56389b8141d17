"""What the tests share: ways to run the command line, and the real data where there is any."""

import gc
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from bertgpt.cli import app, registry
from bertgpt.config.fields import Options

if TYPE_CHECKING:
    from bertgpt.data.tokenizers.tokenizer import Tokenizer

pytest_plugins = ["tests.fixtures.training", "tests.fixtures.finetuning", "tests.fixtures.runs"]

HERE = Path(__file__).parent

# Tests that run side by side share the cores; nothing above imports torch, which reads this once.
BESIDE = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // BESIDE)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that are given longest come first, so that in the end none of several processes waits for another."""

    def given(item: pytest.Item) -> float:
        marker = item.get_closest_marker("timeout")
        return marker.args[0] if marker else 0.0

    items.sort(key=given, reverse=True)


@dataclass
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data: $BERTGPT_TEST_DATA, else a folder beside the checkout; skips without it."""
    named = os.environ.get("BERTGPT_TEST_DATA")
    folder = Path(named) if named else HERE.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data: set BERTGPT_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def hard_strings() -> list[str]:
    """Strings of our own that break careless programs: many scripts, marks, controls and invisible characters."""
    return (HERE / "assets" / "hard_strings.txt").read_text(encoding="utf-8").split("\n%%\n")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command line in this process."""

    def running(*argv: str) -> Outcome:
        capfd.readouterr()
        code = app.run(list(argv))
        sys.stdout.flush()
        return Outcome(code, *capfd.readouterr())

    return running


@pytest.fixture(scope="session")
def process() -> Callable[..., Outcome]:
    """Run a command line in a process of its own; `env` is laid over the environment, None takes a variable away."""

    def running(*argv: str, env: dict[str, str | None] | None = None, **options: Any) -> Outcome:
        merged = {k: v for k, v in (os.environ | (env or {})).items() if v is not None}
        done = subprocess.run(
            [sys.executable, "-m", "bertgpt", *argv],
            env=merged,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            **options,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return running


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, type[Options], Callable[[Any], dict[str, Any]]], None]:
    """Add a command to the command line for one test."""

    def add(name: str, model: type[Options], do: Callable[[Any], dict[str, Any]]) -> None:
        real = registry.module
        made = SimpleNamespace(run=do, show=lambda result, console: console.text(str(result)))
        monkeypatch.setitem(registry.COMMANDS, name, model)
        monkeypatch.setattr(registry, "module", lambda wanted: made if wanted == name else real(wanted))

    return add


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of tests would wait for the disk for half of their time; only where power fails does that matter.

    And for a look through all objects as each begins, of which there are a million here: Python's own looks remain.
    """
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(gc, "collect", lambda generation=2: 0)


@pytest.fixture(autouse=True)
def needs_gpu(request: pytest.FixtureRequest) -> None:
    """Tests that are marked so run where there is a GPU."""
    if request.node.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU here")


@pytest.fixture(scope="session")
def tokenizer() -> "Tokenizer":
    """Trained on a little tinyworld."""
    from bertgpt.data.tokenizers.train import train_tokenizer
    from bertgpt.tinyworld import World

    return train_tokenizer("bpe", 700, [document.text for document in World(0).documents(0, 800)])


def seconds_of_processes() -> float:
    """Of a core, in processes that have ended: what others do meanwhile, such as tests beside, is not in it."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def seconds_of_libraries() -> float:
    """What Typer and pydantic take to be imported: by how much a machine is slow, or busy, now."""
    before = seconds_of_processes()
    subprocess.run([sys.executable, "-c", "import typer, pydantic.fields; from pydantic import BaseModel"], check=True)
    return seconds_of_processes() - before
