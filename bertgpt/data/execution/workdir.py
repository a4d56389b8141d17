"""The work folder of an output: held by one process, named by what decides the bytes, gone when the output is there.

Work goes to a hidden sibling of the output, `.NAME.work/HASH/` ($BERTGPT_WORK moves it). What is finished there is used
again after a kill; the finished folder is renamed into place.
"""

import hashlib
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bertgpt.data.execution.tasks import Facts, Pool, Task, TaskGroup, TaskResult, run, start_forkserver, worker_count
from bertgpt.data.format import config_hash, read_manifest, verify
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import disk_error, ensure_writable_folder, lock, publish_atomic, sync, write_json
from bertgpt.utils.version import __version__

# What the bytes depend on; dvc.yaml says the same.
STAGE_CODE = ("data", "tinyworld", "config", "utils")


class WorkDirectory:
    """The work folder of an output, held by one process at a time, or by one for each share of the work."""

    def __init__(self, out: Path, fresh: bool, share: int | None = None) -> None:
        self.out, self.fresh, self.share = out.absolute(), fresh, share
        self.pool: Pool | None = None
        moved = os.environ.get("BERTGPT_WORK")
        short = hashlib.sha256(str(self.out).encode()).hexdigest()[:12]
        self.root = Path(moved).absolute() / f"{out.name}-{short}" if moved else self.out.parent / f".{out.name}.work"

    def __enter__(self) -> "WorkDirectory":
        if self.out.exists() and not self.out.is_dir():
            raise BertGPTError("BG404", "the output is a file, and should be a folder", path=str(self.out))
        ensure_writable_folder(self.out.parent)
        ensure_writable_folder(self.root)
        name = "lock" if self.share is None else f"lock-{self.share}"
        self._lock = lock(self.root / name, str(self.out))
        self._lock.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self.share is None and not any(path.is_dir() for path in self.root.glob("*")):
            self.remove()  # nothing was begun
        if self.pool is not None:
            self.pool.close()
        self._lock.__exit__(kind, error, trace)
        if isinstance(error, OSError):
            raise disk_error(error, self.root) from None

    def folder(self, config: Facts, name: str, empty: bool = False) -> Path:
        """A folder for one purpose of one config."""
        folder = self.root / config_hash(config)[:16] / name
        if empty:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def is_new(self) -> bool:
        """Whether there is nothing yet that could be finished."""
        return self.fresh or not self.out.exists() or not any(self.out.iterdir())

    def finished(self, config: Facts) -> bool:
        """Whether the output is there already; an error if what is there is something else."""
        if not self.out.exists() or not any(self.out.iterdir()):
            return False
        if not (self.out / "manifest.json").is_file():
            hint = "give another --out, or remove it yourself"
            raise BertGPTError("BG213", "this folder exists and is none of ours", path=str(self.out), hint=hint)
        if self.fresh:
            return False
        hint = "give another --out, or --overwrite to make it anew"
        manifest = read_manifest(self.out)
        if manifest["config"] != config:
            cause = "; ".join(config_diff(manifest["config"], config))
            raise BertGPTError(
                "BG213", "this exists, and was made otherwise", path=str(self.out), cause=cause, hint=hint
            )
        verify(self.out, manifest)
        console.note(f"nothing to do: {self.out} is there already")
        if self.share is None:
            self.remove()
        return True

    def start_pool(self, wanted: int, size: int, tokenizer: str | None = None) -> None:
        """Have worker processes start meanwhile, if there is enough for them to do."""
        workers = worker_count(wanted, size)
        if workers > 1:
            start_forkserver(tokenizer)
            self.pool = Pool(workers)

    def run(
        self,
        job: TaskGroup,
        tasks: Sequence[Task],
        label: str,
        stop_when: Callable[[list[TaskResult]], bool] | None = None,
        durable: bool = False,
    ) -> list[TaskResult]:
        """Do tasks, and show how far they are; what is `durable` is put on the disk meanwhile."""
        progress = console.Progress(label, sum(task.weight for task in tasks))
        done: Counter[str] = Counter()

        def report(task: Task, receipt: TaskResult) -> None:
            if durable:
                sync(job.folder / task.name)
            counts = {name: receipt.facts[name] for name in ("documents", "tokens", "rows") if name in receipt.facts}
            done.update(weight=task.weight, **counts)
            progress.update(done["weight"], **{name: done[name] for name in counts})

        receipts = run(job, tasks, self.pool, report, stop_when or (lambda receipts: False), self.share is None)
        progress.end()
        return receipts

    def publish(self, final: Path, manifest: Facts, tokenizer: Path | None, facts: Facts) -> None:
        """Put the finished folder in place: the manifest is written last."""
        if tokenizer is not None:
            shutil.copytree(tokenizer, final / "tokenizer", ignore=shutil.ignore_patterns(".*"))
        run_json = {"bertgpt": __version__, "python": platform.python_version(), "host": platform.node()}
        write_json(
            final / "run.json",
            run_json | {"made": time.strftime("%FT%TZ", time.gmtime()), "fingerprint": code_hash()} | facts,
        )
        write_json(final / "manifest.json", manifest)
        publish_atomic(final, self.out)
        self.remove()

    def remove(self) -> None:
        """The work is done."""
        shutil.rmtree(self.root, ignore_errors=True)


def nearest_existing(path: Path) -> Path:
    """The nearest folder above that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def code_hash(code: Sequence[str] = STAGE_CODE) -> str:
    """A hash of the code that the bytes depend on."""
    package = Path(__file__).parents[2]
    files = sorted(
        file for name in code for file in ([package / name] if name.endswith(".py") else (package / name).rglob("*.py"))
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def config_diff(old: Any, new: Any, name: str = "") -> list[str]:
    """Where two configs differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        return [text for key in keys for text in config_diff(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))]
    return [f"{name} was {truncate(old)}, is now {truncate(new)}"]


def truncate(value: Any) -> str:
    """A value that is short enough to be read."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
