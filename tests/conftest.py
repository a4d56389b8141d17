"""Shared fixtures: ways to run the command line, real data if there is any, a small tokenizer."""

import gc
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from bertgpt.cli import app, registry
from bertgpt.config.fields import Options
from tests.fixtures import forkserver as forking
from tests.fixtures.forkserver import FOLDER, ForkServer
from tests.fixtures.presets import add_test_presets

if TYPE_CHECKING:
    from bertgpt.data.tokenizers.tokenizer import Tokenizer

pytest_plugins = ["tests.fixtures.training", "tests.fixtures.finetuning", "tests.fixtures.runs"]

HERE = Path(__file__).parent
FAST_SECONDS = 5.0  # CPU time of a test that is not marked as slow
OWN_FOLDER = pytest.StashKey[Path]()
SERVER = pytest.StashKey[ForkServer]()


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the fork server, which all workers share, and the presets of tests."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a script's background, and so by children
    is_worker, workers = hasattr(config, "workerinput"), config.getoption("numprocesses", 0) or 0
    if not is_worker:
        config.stash[OWN_FOLDER] = forking.new_folder()
    server = config.stash[SERVER] = ForkServer(Path(os.environ[FOLDER]))
    if workers and not is_worker:
        # Workers share the cores; their torch reads this variable when it is imported.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
        server.start()  # while the workers collect tests
    add_test_presets()


def pytest_unconfigure(config: pytest.Config) -> None:
    if folder := config.stash.get(OWN_FOLDER, None):
        forking.stop(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with cpu_time(item, "setup"):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with cpu_time(item, "call"):
        yield
    seconds = dict(item.user_properties)["call"]
    may_be_slow = "coverage" in sys.modules or any(map(item.get_closest_marker, ("slow", "exhaustive", "gpu")))
    if seconds > FAST_SECONDS and not may_be_slow:
        pytest.fail(f"took {seconds:.1f} s of CPU time: make it faster, or mark it as slow", pytrace=False)


@contextmanager
def cpu_time(item: pytest.Item, phase: str) -> Iterator[None]:
    """Record the CPU seconds of this process and of the child and forked processes that end in a phase of a test."""
    server = item.config.stash[SERVER]

    def seconds() -> float:
        return time.process_time() + subprocess_cpu_seconds() + server.cpu_seconds

    start = seconds()
    try:
        yield
    finally:
        item.user_properties.append((phase, seconds() - start))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the ten tests that took the most CPU time."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.stats.get(name, [])]
    times = {report.nodeid: dict(report.user_properties) for report in reports if report.when == "call"}
    terminalreporter.section("ten slowest tests: CPU seconds, and those of fixtures set up for them")
    for nodeid, phases in sorted(times.items(), key=lambda pair: -pair[1].get("call", 0))[:10]:
        terminalreporter.line(f"{phases.get('call', 0):6.1f} {phases.get('setup', 0):6.1f}  {nodeid}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every", type=int, default=1, metavar="N", help="Run every Nth of the selected tests.")


@pytest.hookimpl(trylast=True)  # of the tests that -m and -k have selected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start tests with long timeouts first, so that no worker is left with a long one at the end."""
    if (every := config.getoption("every")) > 1:
        kept = set(items[::every])
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = items[::every]

    def timeout(item: pytest.Item) -> float:
        marker = item.get_closest_marker("timeout")
        return marker.args[0] if marker else 0.0

    items.sort(key=timeout, reverse=True)


@dataclass
class Outcome:
    """Exit code, stdout and stderr of a command."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data: $BERTGPT_TEST_DATA, or a folder beside the checkout; the test is skipped without it."""
    given = os.environ.get("BERTGPT_TEST_DATA")
    folder = Path(given) if given else HERE.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data: set BERTGPT_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def hard_strings() -> list[str]:
    """Strings that break careless programs: many scripts, combining marks, controls and invisible characters."""
    return (HERE / "assets" / "hard_strings.txt").read_text(encoding="utf-8").split("\n%%\n")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command line in this process."""

    def run_command(*argv: str) -> Outcome:
        capfd.readouterr()
        code = app.run(list(argv))
        sys.stdout.flush()
        return Outcome(code, *capfd.readouterr())

    return run_command


@pytest.fixture(scope="session")
def forkserver(pytestconfig: pytest.Config) -> ForkServer:
    """The server that forks processes which have imported everything."""
    return pytestconfig.stash[SERVER]


@pytest.fixture(scope="session")
def process(forkserver: ForkServer) -> Callable[..., Outcome]:
    """Run a command line in a forked process; `env` updates the environment, None removes a variable."""

    def run_process(*argv: str, **options: Any) -> Outcome:
        return Outcome(*forkserver.run(list(argv), **options))

    return run_process


@pytest.fixture(scope="session")
def script(forkserver: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of an executable `bertgpt` that runs in a forked process, for shells and for streams of all kinds."""
    folder = tmp_path_factory.mktemp("bin")
    forkserver.write_script(folder, "bertgpt")
    return str(folder / "bertgpt")


@pytest.fixture(scope="session")
def fresh_process() -> Callable[..., Outcome]:
    """Run a command line in a new interpreter, for what is decided when Python starts."""

    def run_process(*argv: str, env: dict[str, str | None] | None = None) -> Outcome:
        merged = {k: v for k, v in (os.environ | (env or {})).items() if v is not None}
        command = [sys.executable, "-m", "bertgpt", *argv]
        completed = subprocess.run(command, env=merged, capture_output=True, encoding="utf-8", timeout=60)
        return Outcome(completed.returncode, completed.stdout, completed.stderr)

    return run_process


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, type[Options], Callable[[Any], dict[str, Any]]], None]:
    """Add a command to the command line for one test."""

    def add_command(name: str, model: type[Options], function: Callable[[Any], dict[str, Any]]) -> None:
        import_stage = registry.stage_module
        stage = SimpleNamespace(run=function, show=lambda result, console: console.text(str(result)))
        monkeypatch.setitem(registry.COMMANDS, name, model)
        monkeypatch.setattr(
            registry, "stage_module", lambda command: stage if command == name else import_stage(command)
        )

    return add_command


@pytest.fixture(autouse=True)
def fast_io(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync and forced garbage collection.

    Waiting for the disk would take half of the time of the tests, and only matters when the power fails. Each run
    forces a collection over the million objects of the test process; Python's own collections remain.
    """
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(gc, "collect", lambda generation=2: 0)


@pytest.fixture(autouse=True)
def skip_without_gpu(request: pytest.FixtureRequest) -> None:
    """Skip tests marked `gpu` where there is no CUDA device."""
    if request.node.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def tokenizer() -> "Tokenizer":
    """A BPE tokenizer trained on 800 tinyworld documents."""
    from bertgpt.data.tokenizers.train import train_tokenizer
    from bertgpt.tinyworld import World

    return train_tokenizer("bpe", 700, [document.text for document in World(0).documents(0, 800)])


def subprocess_cpu_seconds() -> float:
    """CPU time of all child processes that have ended; unlike wall time, parallel tests do not add to it."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def libraries_cpu_seconds() -> float:
    """CPU time of importing Typer and pydantic: the yardstick for how slow or busy the machine is now."""
    before = subprocess_cpu_seconds()
    subprocess.run([sys.executable, "-c", "import typer, pydantic.fields; from pydantic import BaseModel"], check=True)
    return subprocess_cpu_seconds() - before
