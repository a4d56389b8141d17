"""Work directory of an output folder: locked by one process, keyed by config hash, removed when the output is there.

Unfinished work goes to a hidden sibling of the output, `.NAME.work/HASH/` ($BERTGPT_WORK moves it). What a killed run
has completed there is reused; the finished folder is renamed into place.
"""

import hashlib
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from bertgpt.config.code_deps import code_hash
from bertgpt.data.execution.tasks import (
    Metadata,
    Pool,
    Task,
    TaskGroup,
    TaskResult,
    run_tasks,
    start_forkserver,
    worker_count,
)
from bertgpt.data.format import WRITTEN_BY, check_unchanged, read_manifest, verify
from bertgpt.utils import console
from bertgpt.utils.disk import check_space
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import (
    ensure_writable_folder,
    link_or_copy,
    lock,
    publish_atomic,
    sha256_of_json,
    sync,
    write_json,
)
from bertgpt.utils.version import __version__

COUNTED = ("documents", "tokens", "rows")  # what progress shows, of the metadata that has it


class WorkDirectory:
    """Work directory of an output folder, locked by one process, or by one process per --task-index."""

    def __init__(self, out: Path, overwrite: bool, task_index: int | None = None) -> None:
        self.out, self.overwrite, self.task_index = out.absolute(), overwrite, task_index
        self.pool: Pool | None = None
        self.parents: dict[Path, str] = {}  # folders that the output is made of, with the hashes of their manifests
        self.start_time = time.monotonic()
        moved = os.environ.get("BERTGPT_WORK")
        short = hashlib.sha256(str(self.out).encode()).hexdigest()[:12]
        self.root = Path(moved).absolute() / f"{out.name}-{short}" if moved else self.out.parent / f".{out.name}.work"

    def __enter__(self) -> "WorkDirectory":
        if self.out.exists() and not self.out.is_dir():
            raise BertGPTError("BG404", "the output is a file, not a folder", path=str(self.out))
        ensure_writable_folder(self.out.parent)
        ensure_writable_folder(self.root)
        name = "lock" if self.task_index is None else f"lock-{self.task_index}"
        self._lock = lock(self.root / name, str(self.out))
        self._lock.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self.task_index is None and not any(path.is_dir() for path in self.root.glob("*")):
            self.remove()  # nothing was started
        if self.pool is not None:
            self.pool.close()
        self._lock.__exit__(kind, error, trace)

    def folder(self, config: Metadata, name: str, empty: bool = False) -> Path:
        """The folder of this name for a config; created, and cleared if it should be `empty`."""
        folder = self.root / sha256_of_json(config)[:16] / name
        if empty:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def will_build(self) -> bool:
        """Whether the output must be built for certain: there is none, or it is to be overwritten."""
        return self.overwrite or not self.out.exists() or not any(self.out.iterdir())

    def is_up_to_date(self, config: Metadata) -> bool:
        """Whether the output exists with this config; an error if it exists with another, or is not ours."""
        if not self.out.exists() or not any(self.out.iterdir()):
            return False
        if not (self.out / "manifest.json").is_file():
            hint = "choose another --out, or remove the folder yourself"
            message = "output folder exists but was not created by bertgpt"
            raise BertGPTError("BG213", message, path=str(self.out), hint=hint)
        if self.overwrite:
            return False
        hint = "choose another --out, or --overwrite to replace it"
        manifest = read_manifest(self.out)
        if manifest["config"] != config:
            cause = "; ".join(config_diff(manifest["config"], config))
            message = "output exists with different options"
            raise BertGPTError("BG213", message, path=str(self.out), cause=cause, hint=hint)
        verify(self.out, manifest)
        console.info(f"nothing to do: {self.out} is finished")
        if self.task_index is None:
            self.remove()
        return True

    def check_space(self, needed: int, output: int, *configs: Metadata) -> None:
        """Check before any work that the disk has room for `needed` bytes, less what an earlier run has left of them.

        If the output is on another file system, to which it is copied, that needs room for it.
        """
        folders = [self.root / sha256_of_json(config)[:16] for config in configs]
        held = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
        check_space(self.root, needed - held)
        if self.root.stat().st_dev != self.out.parent.stat().st_dev:
            check_space(self.out.parent, output)

    def start_pool(self, workers: int, input_bytes: int, tokenizer: str | None = None) -> None:
        """Start worker processes in the background, if the input is large enough for more than one."""
        count = worker_count(workers, input_bytes)
        if count > 1:
            start_forkserver(tokenizer)
            self.pool = Pool(count)

    def run(
        self, group: TaskGroup, tasks: Sequence[Task], label: str, durable: bool = False
    ) -> Generator[TaskResult, None, None]:
        """Yield the results in the order of the tasks, which run meanwhile, and show progress; `durable` syncs files.

        Closing the iterator starts no further task.
        """
        progress = console.Progress(label, sum(task.weight for task in tasks))
        done: Counter[str] = Counter()
        waiting: dict[int, TaskResult] = {}  # for an earlier task
        following = 0
        with closing(run_tasks(group, tasks, self.pool, alone=self.task_index is None)) as results:
            for i, result in results:
                if durable:
                    sync(group.folder / result.name)
                counts = {key: result.metadata[key] for key in COUNTED if key in result.metadata}
                done.update(weight=tasks[i].weight, **counts)
                progress.update(done["weight"], **{key: done[key] for key in counts})
                waiting[i] = result
                while following in waiting:
                    yield waiting.pop(following)
                    following += 1
        progress.end()

    def publish_files(self, paths: Sequence[Path], manifest: Metadata, tokenizer: Path, run_metadata: Metadata) -> None:
        """Publish files that tasks have written, under the names that the manifest gives them."""
        final = self.folder(manifest["config"], "final", empty=True)
        for path, entry in zip(paths, manifest["files"], strict=True):
            link_or_copy(path, final / entry["path"])
        self.publish(final, manifest, tokenizer, run_metadata)

    def publish(self, final: Path, manifest: Metadata, tokenizer: Path | None, run_metadata: Metadata) -> None:
        """Move the finished folder into place; its manifest is written last."""
        if tokenizer is not None:
            shutil.copytree(tokenizer, final / "tokenizer", ignore=shutil.ignore_patterns(".*"))
        run_json = {"bertgpt": __version__, "python": platform.python_version(), "host": platform.node()}
        created = time.strftime("%FT%TZ", time.gmtime())
        run_json |= {"created": created, "code_hash": code_hash(WRITTEN_BY[manifest["kind"]])}
        for folder, sha256 in self.parents.items():
            check_unchanged(folder, sha256)
        write_json(final / "run.json", run_json | run_metadata)
        write_json(final / "manifest.json", manifest)
        publish_atomic(final, self.out)
        self.remove()

    def remove(self) -> None:
        """Remove the work directory."""
        shutil.rmtree(self.root, ignore_errors=True)


def config_diff(old: Any, new: Any, name: str = "") -> list[str]:
    """The differences between two different configs, one sentence each."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        return [text for key in keys for text in config_diff(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        i = next(i for i in range(len(old)) if old[i] != new[i])  # of several, the first says enough
        return config_diff(old[i], new[i], f"{name}.{i}")
    return [f"{name} was {truncate(old)}, is now {truncate(new)}"]


def truncate(value: Any) -> str:
    """A value as text of at most 60 characters."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
