"""Crash safety: a build that is killed anywhere and started again ends in the bytes of an undisturbed one."""

import glob
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bertgpt.tinyworld import World
from tests.conftest import Outcome

Run = Callable[..., Outcome]

POINTS = [
    "file.written:1", "file.written:4", "file.synced:1", "file.synced:5", "file.renamed:1", "file.renamed:6",
    "task.file_written:1", "task.file_written:8", "task.done:1", "task.done:9", "publish.ready", "publish.renamed",
]  # fmt: skip
WORK_FILES = ["text-a.jsonl", "text-b.jsonl", "text-c.jsonl"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven megabytes in three files: enough for several tasks, and for worker processes."""
    folder = tmp_path_factory.mktemp("corpus")
    documents = World(5).documents(0, 24_000)
    for name in WORK_FILES:
        lines = (json.dumps({"text": next(documents).text}) + "\n" for _ in range(8_000))
        (folder / name).write_text("".join(lines), encoding="utf-8")
    return folder


def arguments(corpus: Path, out: Path, *more: str, workers: int = 2, files: list[str] | None = None) -> list[str]:
    names = [str(corpus / name) for name in files or WORK_FILES]
    options = ["--train-tokenizer", "bpe", "--vocab-size", "600", "--train-bytes", "300k", "--shard-tokens", "400k"]
    return [
        "shard", *names, "--out", str(out), *options, "--val-fraction", "0.05",
        "--workers", str(workers), "--quiet", *more,
    ]  # fmt: skip


def command(corpus: Path, out: Path, *more: str) -> list[str]:
    """A command line for a new interpreter, which a test watches."""
    return [sys.executable, "-m", "bertgpt", *arguments(corpus, out, *more)]


@pytest.fixture(scope="module")
def run(process: Callable[..., Outcome]) -> Run:
    """Run a command line to its end, or to its death, in a forked process."""
    return lambda argv, **env: process(*argv, env=env)


def content(folder: Path) -> dict[str, str]:
    """The hash of every file that is part of the artifact."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "run.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def undisturbed(run: Run, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run(arguments(corpus, out))
    assert done.code == 0, done.err
    assert not list(out.parent.glob(".*"))
    return content(out)


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers(
    run: Run, workers: int, corpus: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    assert run(arguments(corpus, tmp_path / "out", workers=workers)).code == 0
    assert content(tmp_path / "out") == undisturbed


def test_order_and_folder_of_files_do_not_matter(
    run: Run, corpus: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(corpus, tmp_path / "elsewhere" / "deeper")
    argv = arguments(tmp_path / "elsewhere" / "deeper", tmp_path / "x" / "y", files=WORK_FILES[::-1])
    assert run(argv, PYTHONHASHSEED="7", BERTGPT_WORK=str(tmp_path / "work")).code == 0
    assert content(tmp_path / "x" / "y") == undisturbed
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.slow
def test_killed_at_every_fault_point(run: Run, corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """One output, killed at each of the fault points in turn, each time further on."""
    out = tmp_path / "out"
    for point in POINTS:
        done = run(arguments(corpus, out, workers=1), BERTGPT_FAULT=point)
        assert done.code in (-signal.SIGKILL, 0), (point, done.err)
        if out.exists():  # what is visible is complete
            assert content(out) == undisturbed, point
    assert run(arguments(corpus, out, workers=1)).code == 0
    assert content(out) == undisturbed
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("point", ["publish.ready", "publish.aside", "publish.renamed"])
def test_overwrite_replaces_output_atomically(run: Run, point: str, corpus: Path, tmp_path: Path) -> None:
    out, small = tmp_path / "out", ["text-a.jsonl"]
    assert run(arguments(corpus, out, workers=1, files=small)).code == 0
    before = content(out)
    overwrite = arguments(corpus, out, "--overwrite", "--seed", "2", workers=1, files=small)
    assert run(overwrite, BERTGPT_FAULT=point).code == -signal.SIGKILL
    if point != "publish.renamed":  # the old output is still there, in its place or aside
        assert content(out if out.exists() else tmp_path / ".out.old") == before
    assert run(overwrite).code == 0
    assert content(out) != before
    assert run(arguments(corpus, tmp_path / "again", "--seed", "2", workers=1, files=small)).code == 0
    assert content(out) == content(tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "out"]


def results(folder: Path) -> dict[str, int]:
    """The result files of completed tasks, with the time at which each output was written."""
    found = {}
    for result in glob.glob(f"{folder}/.out.work/*/*/*.arrow.json"):  # noqa: PTH207 - tolerates folders that vanish
        with suppress(FileNotFoundError):
            found[result] = Path(result.removesuffix(".json")).stat().st_mtime_ns
    return found


def wait_for_results(running: subprocess.Popen[str], folder: Path) -> None:
    while running.poll() is None and not results(folder):
        time.sleep(0.002)


def killed_after(argv: list[str], folder: Path, more: int) -> tuple[int, dict[str, int]]:
    """Start a build and kill it when so many more tasks are completed; what it left."""
    before = len(results(folder))
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while running.poll() is None and len(results(folder)) < before + more:
            time.sleep(0.002)
        running.kill()
        running.wait()
    return running.returncode, results(folder)


def kill_often(corpus: Path, tmp_path: Path, kills: int) -> tuple[int, int]:
    """Kill and restart; the number of kills, and of tasks that were run more than once."""
    draw = random.Random(3)
    rerun = killed = 0
    completed: dict[str, int] = {}
    argv = command(corpus, tmp_path / "out")
    while killed < kills:
        if (tmp_path / "out").exists():
            shutil.rmtree(tmp_path / "out")
        code, left = killed_after(argv, tmp_path, draw.randrange(0, 7))
        killed += code == -signal.SIGKILL
        rerun += sum(left.get(file, time) != time for file, time in completed.items() if Path(file).exists())
        completed = left
    return killed, rerun


def check_kills(run: Run, corpus: Path, undisturbed: dict[str, str], tmp_path: Path, kills: int) -> None:
    killed, rerun = kill_often(corpus, tmp_path, kills)
    assert rerun == 0  # a task with a result never runs again; at most two per kill do, which were running
    assert run(arguments(corpus, tmp_path / "out", "--overwrite")).code == 0
    assert content(tmp_path / "out") == undisturbed
    assert killed == kills


@pytest.mark.slow
def test_killed_eight_times(run: Run, corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    check_kills(run, corpus, undisturbed, tmp_path, 8)


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_killed_fifty_times(run: Run, corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    check_kills(run, corpus, undisturbed, tmp_path, 50)


def test_files_lost_in_a_power_failure_are_written_again(
    run: Run, corpus: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """Nothing is synced before the end: after a power failure a file may have its size, but not its content."""
    assert run(arguments(corpus, tmp_path / "out"), BERTGPT_FAULT="publish.ready").code == -signal.SIGKILL
    for name in ("part-00001.arrow", "train-00001.arrow"):
        (lost,) = tmp_path.rglob(f".out.work/*/[ts]*/{name}")
        size = lost.stat().st_size
        lost.unlink()  # the finished folder has a hard link to it
        lost.write_bytes(bytes(size))
    assert run(arguments(corpus, tmp_path / "out")).code == 0
    assert content(tmp_path / "out") == undisturbed


def workers_of(process: subprocess.Popen[str]) -> Iterator[psutil.Process]:
    for child in psutil.Process(process.pid).children():
        if "spawn_main" in " ".join(child.cmdline()):
            yield child
        if "forkserver" in " ".join(child.cmdline()):
            yield from child.children()


def test_worker_killed_from_outside_is_replaced(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """A multiprocessing.Pool would hang for ever."""
    running = subprocess.Popen(command(corpus, tmp_path / "out"), stderr=subprocess.PIPE, text=True)
    wait_for_results(running, tmp_path)
    next(workers_of(running)).kill()
    _, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert content(tmp_path / "out") == undisturbed


def test_workers_exit_when_the_parent_is_killed(corpus: Path, tmp_path: Path) -> None:
    running = subprocess.Popen(command(corpus, tmp_path / "out"), stderr=subprocess.PIPE, text=True)
    wait_for_results(running, tmp_path)
    workers = list(workers_of(running))
    running.kill()
    assert len(workers) == 2
    assert not psutil.wait_procs(workers, timeout=30)[1]
    running.communicate(timeout=30)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_cleanly_and_keep_results(
    run: Run, script: str, number: signal.Signals, code: int, corpus: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """The exit code tells DVC that the stage has not finished."""
    running = subprocess.Popen([script, *arguments(corpus, tmp_path / "out")], stderr=subprocess.PIPE, text=True)
    wait_for_results(running, tmp_path)
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == code
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
    completed = results(tmp_path)
    assert completed
    assert run(arguments(corpus, tmp_path / "out")).code == 0
    assert content(tmp_path / "out") == undisturbed


def test_full_disk_keeps_completed_tasks(
    process: Run, run: Run, corpus: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """A limit on file sizes, which to a writer looks like a full disk."""
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (300_000, 300_000))"
    done = process(*arguments(corpus, tmp_path / "out", workers=1), first=limit)
    assert done.code == 4
    assert "error[BG403]" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()
    assert run(arguments(corpus, tmp_path / "out", workers=1)).code == 0
    assert content(tmp_path / "out") == undisturbed


def test_second_writer_is_refused(run: Run, corpus: Path, tmp_path: Path) -> None:
    """The error names the first writer; the lock of a dead process is free."""
    first = subprocess.Popen(command(corpus, tmp_path / "out"), stderr=subprocess.PIPE, text=True)
    wait_for_results(first, tmp_path)
    first.send_signal(signal.SIGSTOP)
    second = run(arguments(corpus, tmp_path / "out"))
    assert second.code == 6
    assert "error[BG601]" in second.err
    assert f"pid {first.pid} on" in second.err
    first.kill()
    first.communicate()
    assert run(arguments(corpus, tmp_path / "out")).code == 0
