"""The crash-safe parallel runner: tasks, each of which writes one file, and receipts of those that are done.

A task is a pure function of its identity. Its file is written aside and renamed, then its receipt likewise; whoever
comes again with the same identity and the same code takes the file, if it still has the hash that the receipt says. So
a run may be killed at any instant and begun again, with any number of workers, and ends in the same bytes. Nothing is
forced to the disk before the finished folder is: a machine that loses power costs the files that it had not yet
written.
"""

import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Protocol

from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import disk_error, fault_point, sha256_of, write_atomic, write_json

SMALL_WORK = 40_000_000  # bytes: done in one process before others would have started
PRELOAD = "bertgpt.data.build.preload"  # by its name: execution knows nothing of what it executes
MAX_DEATHS = 3  # of workers, without a task finished in between
USE_FORKSERVER = sys.platform == "linux"  # from a server that has the modules already; elsewhere that is not safe
# Libraries that start threads of their own start none: there is a process for each core.
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
KEEP_MEMORY = {  # for the next task, instead of having the system clear it anew
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 26),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}

Facts = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What makes one file. The name decides where it is put, the identity whether it is there already."""

    name: str
    identity: Facts
    weight: int
    work: Any


@dataclass(frozen=True)
class TaskResult:
    """A finished task: its file, and the facts that were found while it was made."""

    name: str
    bytes: int
    sha256: str
    facts: Facts


class Worker(Protocol):
    """Makes files for tasks; one lives in each process."""

    def run(self, work: Any, path: Path) -> Facts:
        """Write the file of a task, and say what is in it."""


@dataclass(frozen=True)
class TaskGroup:
    """Tasks of one kind: how a worker is made, and where their files go."""

    make: Callable[..., Worker]
    arguments: tuple[Any, ...]
    folder: Path
    code_hash: str  # the fingerprint of the code; files made by other code are made again


def run(
    job: TaskGroup,
    tasks: Sequence[Task],
    pool: "Pool | None",
    report: Callable[[Task, TaskResult], None] = lambda task, receipt: None,
    stop_when: Callable[[list[TaskResult]], bool] = lambda receipts: False,
    alone: bool = True,
) -> list[TaskResult]:
    """Do the tasks that are not done, here or in a pool; the receipts come in the order of the tasks.

    `enough` is asked about the unbroken beginning of the receipts; once it is, no further task begins. What a killed
    run has left half-written goes, unless we are not `alone` in the folder.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    for leftover in job.folder.glob(".*.tmp") if alone else ():
        leftover.unlink(missing_ok=True)
    receipts: dict[int, TaskResult] = {}
    begun: list[TaskResult] = []  # those before the first that is missing

    def beginning() -> list[TaskResult]:
        while len(begun) in receipts:
            begun.append(receipts[len(begun)])
        return begun

    for i, task in enumerate(tasks):
        if receipt := completed_result(job, task):
            receipts[i] = receipt
            report(task, receipt)
    waiting = [i for i in range(len(tasks)) if i not in receipts]
    perform_all = run_serial if pool is None or len(waiting) <= 1 else pool.perform
    if waiting and not stop_when(beginning()):
        for i, receipt in perform_all(job, tasks, waiting, lambda: stop_when(beginning())):
            receipts[i] = receipt
            report(tasks[i], receipt)
    return beginning()


def completed_result(job: TaskGroup, task: Task) -> TaskResult | None:
    """The receipt of a task that this code has done before, with its file still there."""
    try:
        kept = json.loads((job.folder / f"{task.name}.json").read_text(encoding="utf-8"))
        same_task = (kept["task"], kept["stamp"]) == (hash_of(task.identity), job.code_hash)
        if same_task and kept["sha256"] == sha256_of(job.folder / task.name):
            return TaskResult(task.name, kept["bytes"], kept["sha256"], kept["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def hash_of(identity: Facts) -> str:
    """What a task is known by."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def run_serial(
    job: TaskGroup, tasks: Sequence[Task], waiting: Sequence[int], stop_when: Callable[[], bool]
) -> Iterator[tuple[int, TaskResult]]:
    """One after the other in this process."""
    with environment(ONE_THREAD):
        worker = job.make(*job.arguments)
        for i in waiting:
            if stop_when():
                return
            yield i, run_task(worker, job, tasks[i])


def run_task(worker: Worker, job: TaskGroup, task: Task) -> TaskResult:
    """Do one task: its file, then its receipt."""
    if done := completed_result(job, task):  # by a worker that was killed just after
        return done
    path = job.folder / task.name
    facts: Facts = {}
    try:
        write_atomic(path, lambda aside: facts.update(worker.run(task.work, aside)), durable=False)
        receipt = TaskResult(task.name, path.stat().st_size, sha256_of(path), facts)
        fault_point("task.unreceipted")
        kept = {
            "task": hash_of(task.identity),
            "stamp": job.code_hash,
            "bytes": receipt.bytes,
            "sha256": receipt.sha256,
        }
        write_json(job.folder / f"{task.name}.json", kept | {"facts": facts}, durable=False)
    except OSError as error:
        raise disk_error(error, job.folder) from None
    fault_point("task.done")
    return receipt


# ----------------------------------------------------------------------------------------------- processes

_workers: dict[Path, Worker] = {}  # of this process, by the folder of their job


def init_worker() -> None:
    """What each worker process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; what is being written is finished
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(ONE_THREAD)
    Finalize(None, os._exit, args=(0,), exitpriority=0)  # nothing is left to put away, which would take a while
    threading.Thread(target=exit_with_parent, daemon=True).start()


def exit_with_parent() -> None:
    """Go when the parent has gone: a killed parent tells nobody, and its workers would wait for ever."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def noop() -> None:
    """A first task, which has a process started and this module imported."""


def run_in_worker(job: TaskGroup, task: Task) -> TaskResult:
    """One task, by the worker that this process has for its job."""
    if job.folder not in _workers:
        _workers[job.folder] = job.make(*job.arguments)
    return run_task(_workers[job.folder], job, task)


def worker_count(wanted: int, size: int) -> int:
    """How many processes work: by default one for each core that we may use, unless they would start for too little."""
    if wanted == 0 and size < SMALL_WORK:
        return 1
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return wanted or len(cores)


def start_forkserver(tokenizer: str | None) -> None:
    """Start the server that worker processes are forked from; it imports what they need, and loads the tokenizer."""
    if USE_FORKSERVER:
        forkserver.set_forkserver_preload([PRELOAD])
        with environment(ONE_THREAD | KEEP_MEMORY | {"BERTGPT_TOKENIZER": tokenizer or ""}), hide_main_module():
            forkserver.ensure_running()


class Pool:
    """Worker processes that serve one job after the other, and are made anew when one of them is killed."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def executor(self) -> ProcessPoolExecutor:
        """The processes, which start when they are first asked for."""
        if self._executor is None:
            context = get_context("forkserver" if USE_FORKSERVER else "spawn")
            self._executor = ProcessPoolExecutor(self.workers, context, init_worker)
            with hide_main_module():
                for _ in range(self.workers):
                    self._executor.submit(noop)
        return self._executor

    def close(self) -> None:
        """Drop tasks that have not begun; wait for those that have."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def perform(
        self, job: TaskGroup, tasks: Sequence[Task], waiting: Sequence[int], enough: Callable[[], bool]
    ) -> Iterator[tuple[int, TaskResult]]:
        """Do tasks in the processes, the earlier ones first."""
        left, deaths = list(waiting), 0
        running: dict[Future[TaskResult], int] = {}
        while running or (left and not enough()):
            try:
                with hide_main_module():
                    while left and len(running) <= self.workers and not enough():
                        future = self.executor().submit(run_in_worker, job, tasks[left[0]])
                        running[future] = left.pop(0)
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    receipt = future.result()
                    deaths = 0
                    yield running.pop(future), receipt
            except BrokenProcessPool:
                deaths += 1
                if deaths >= MAX_DEATHS:
                    raise BertGPTError(
                        "BG406", "a worker process was killed three times in a row", hint="use fewer --workers"
                    ) from None
                left = sorted({*left, *running.values()})
                running.clear()
                self.close()


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a while."""
    saved = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in saved.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def hide_main_module() -> Iterator[None]:
    """Keep spawned processes from importing the program that calls us: they need nothing of it."""
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
