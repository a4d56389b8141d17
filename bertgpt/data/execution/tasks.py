"""Crash-safe parallel task runner: each task writes one file, then a JSON file with its result.

A task is a pure function of its identity. Its file is written under a temporary name and renamed, then its result
likewise. A later run with the same identity and the same code reuses the file if its hash still matches the result.
So a run may be killed at any instant and started again, with any number of workers, and ends in the same bytes.
Nothing is synced before the finished folder is: a power failure costs the files that were not yet on disk.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Protocol

from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import atomic_write, fault_point, sha256_of, sha256_of_json, write_json
from bertgpt.utils.json_files import parse_json

SMALL_INPUT = 40_000_000  # bytes: one process is done with so few before others have started
PRELOAD = "bertgpt.data.build.preload"  # as a string: this room does not import what it executes
MAX_WORKER_DEATHS = 3  # in a row, without a task finished in between
USE_FORKSERVER = sys.platform == "linux"  # workers fork with the modules imported; elsewhere that is not safe
# Libraries must not start threads of their own: there is one process per core.
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
KEEP_MEMORY = {  # reuse memory for the next task; returned to the system, its pages would be zeroed again
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 26),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}

Metadata = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Writes one file. The name is that of the file; the identity decides whether an existing file can be reused."""

    name: str
    identity: Metadata
    weight: int  # bytes, about; for progress
    payload: Any  # what the worker gets


@dataclass(frozen=True)
class TaskResult:
    """A finished task: its file, and the metadata that the worker returned."""

    name: str
    bytes: int
    sha256: str
    metadata: Metadata


class Worker(Protocol):
    """Writes the files of tasks; each process has one."""

    def run(self, payload: Any, path: Path) -> Metadata:
        """Write the file of a task and return its metadata."""


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that share a worker class, its arguments and an output folder."""

    make_worker: Callable[..., Worker]
    worker_args: tuple[Any, ...]
    folder: Path
    code_hash: str  # files written by other code are written again


def run_tasks(
    group: TaskGroup, tasks: Sequence[Task], pool: "Pool | None" = None, alone: bool = True
) -> Generator[tuple[int, TaskResult], None, None]:
    """Yield the index and result of each task: completed ones first, the others as they finish, here or in a pool.

    Closing the iterator stops the group: no further task starts, and those that are running are waited for. Temporary
    files of a killed run are removed, unless other processes write to the same folder (not `alone`).
    """
    group.folder.mkdir(parents=True, exist_ok=True)
    for leftover in group.folder.glob(".*.tmp") if alone else ():
        leftover.unlink(missing_ok=True)
    pending = []
    for i, task in enumerate(tasks):
        if result := completed_result(group, task):
            yield i, result
        else:
            pending.append(i)
    yield from (
        run_serial(group, tasks, pending) if pool is None or len(pending) <= 1 else pool.run(group, tasks, pending)
    )


def completed_result(group: TaskGroup, task: Task) -> TaskResult | None:
    """The result of a task that the same code has completed before, if its file is still intact."""
    try:
        stored = parse_json((group.folder / f"{task.name}.json").read_text(encoding="utf-8"))
        same_task = (stored["task"], stored["code_hash"]) == (sha256_of_json(task.identity), group.code_hash)
        if same_task and stored["sha256"] == sha256_of(group.folder / task.name):
            return TaskResult(task.name, stored["bytes"], stored["sha256"], stored["metadata"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def run_serial(group: TaskGroup, tasks: Sequence[Task], pending: Sequence[int]) -> Iterator[tuple[int, TaskResult]]:
    """Run tasks one after the other in this process."""
    if not pending:
        return
    with environment(ONE_THREAD):
        worker = group.make_worker(*group.worker_args)
        for i in pending:
            yield i, run_task(worker, group, tasks[i])


def run_task(worker: Worker, group: TaskGroup, task: Task) -> TaskResult:
    """Run one task: write its file, then its result."""
    if completed := completed_result(group, task):  # by a worker that was killed just afterwards
        return completed
    path = group.folder / task.name
    metadata: Metadata = {}
    with atomic_write(path, durable=False) as temporary:
        metadata.update(worker.run(task.payload, temporary))
    result = TaskResult(task.name, path.stat().st_size, sha256_of(path), metadata)
    fault_point("task.file_written")
    stored = {
        "task": sha256_of_json(task.identity),
        "code_hash": group.code_hash,
        "bytes": result.bytes,
        "sha256": result.sha256,
        "metadata": metadata,
    }
    write_json(group.folder / f"{task.name}.json", stored, durable=False)
    fault_point("task.done")
    return result


# ----------------------------------------------------------------------------------------------- processes

_workers: dict[Path, Worker] = {}  # of this process, by the folder of their group


def init_worker() -> None:
    """Initializer of each worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; the file being written is finished
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(ONE_THREAD)
    Finalize(None, os._exit, args=(0,), exitpriority=0)  # skip the slow cleanup at exit: there is nothing to clean up
    threading.Thread(target=exit_with_parent, daemon=True).start()


def exit_with_parent() -> None:
    """Exit when the parent dies: a killed parent tells nobody, and its workers would wait for ever."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def noop() -> None:
    """A first task: it makes a process start and import this module."""


def run_in_worker(group: TaskGroup, task: Task) -> TaskResult:
    """Run one task with the worker that this process has for the group."""
    if group.folder not in _workers:
        _workers[group.folder] = group.make_worker(*group.worker_args)
    return run_task(_workers[group.folder], group, task)


def worker_count(requested: int, input_bytes: int) -> int:
    """The number of worker processes: by default one per usable core, or a single one for a small input."""
    if requested == 0 and input_bytes < SMALL_INPUT:
        return 1
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return requested or len(cores)


def start_forkserver(tokenizer: str | None) -> None:
    """Start the server that workers are forked from; it imports what they need and loads the tokenizer."""
    if USE_FORKSERVER:
        forkserver.set_forkserver_preload([PRELOAD])
        with environment(ONE_THREAD | KEEP_MEMORY | {"BERTGPT_TOKENIZER": tokenizer or ""}), hide_main_module():
            forkserver.ensure_running()


class Pool:
    """Worker processes that run one task group after the other; replaced when one of them is killed."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def executor(self) -> ProcessPoolExecutor:
        """The processes, started on first use."""
        if self._executor is None:
            context = get_context("forkserver" if USE_FORKSERVER else "spawn")
            self._executor = ProcessPoolExecutor(self.workers, context, init_worker)
            with hide_main_module():
                for _ in range(self.workers):
                    self._executor.submit(noop)
        return self._executor

    def close(self) -> None:
        """Cancel tasks that have not started; wait for those that have."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def run(self, group: TaskGroup, tasks: Sequence[Task], pending: Sequence[int]) -> Iterator[tuple[int, TaskResult]]:
        """Run the pending tasks in order of their index; yield each result as it arrives."""
        queue, deaths = list(pending), 0
        running: dict[Future[TaskResult], int] = {}
        try:
            while running or queue:
                try:
                    with hide_main_module():
                        while queue and len(running) <= self.workers:
                            future = self.executor().submit(run_in_worker, group, tasks[queue[0]])
                            running[future] = queue.pop(0)
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        result = future.result()
                        deaths = 0
                        yield running.pop(future), result
                except BrokenProcessPool:
                    queue = sorted({*queue, *running.values()})
                    running.clear()
                    deaths += 1
                    if deaths >= MAX_WORKER_DEATHS:
                        raise BertGPTError(
                            "BG406", "a worker process was killed three times in a row", hint="use fewer --workers"
                        ) from None
                    self.close()
        finally:  # the consumer has stopped, or a task has failed
            for future in running:
                future.cancel()
            wait(running)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the duration of a block."""
    saved = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in saved.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def hide_main_module() -> Iterator[None]:
    """Keep spawned processes from importing the calling program, of which they need nothing."""
    main = sys.modules["__main__"]
    saved = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    main.__spec__ = None
    if hasattr(main, "__file__"):
        del main.__file__
    try:
        yield
    finally:
        for name, value in saved.items():
            setattr(main, name, value)
