"""Files that are never half there: written aside, synced, renamed into place. And locks, and what a full disk says.

Every step after which a crash leaves something else behind is a named `point`; tests kill the process at each of
them ($BERTGPT_FAULT=NAME or NAME:3 for the third time it is passed).
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertgpt.utils.errors import BertGPTError

_passed: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """A place where a crash would matter."""
    wanted = os.environ.get("BERTGPT_FAULT")
    if wanted is not None:
        _passed[name] += 1
        if wanted in (name, f"{name}:{_passed[name]}"):
            os.kill(os.getpid(), signal.SIGKILL)


def cache_folder() -> Path:
    """Where bertgpt keeps what it can make again; $XDG_CACHE_HOME is honoured, and no home is needed."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        base = Path(tempfile.gettempdir())
    return base / "bertgpt"


def evict_oldest(folder: Path, most: int) -> None:
    """Remove the oldest files of a cache until what is left is no larger."""
    files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in folder.iterdir() if path.is_file())
    surplus = sum(size for _, size, _ in files) - most
    for _, size, path in files:
        if surplus <= 0:
            return
        path.unlink(missing_ok=True)
        surplus -= size


def sha256_of(path: Path) -> str:
    """The content hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, write: Callable[[Path], None], durable: bool = True) -> None:
    """Have `write` make a file under another name, then put it in place whole, replacing what was there.

    What is not `durable` outlives this process, but perhaps not the machine.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(aside)
        fault_point("file.written")
        if durable:
            sync(aside)
        fault_point("file.synced")
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)
    fault_point("file.renamed")


def write_json(path: Path, content: Any, durable: bool = True) -> None:
    """A JSON file, the same bytes for the same content."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, lambda aside: discard_result(aside.write_text(text, encoding="utf-8")), durable)


def discard_result(_: Any) -> None:
    """Nothing."""


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_all(folder: Path) -> None:
    """Wait until a folder is on the disk, with all that is in it."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def publish_atomic(folder: Path, target: Path) -> None:
    """Put a finished folder into its place; one that was there before is gone when the new one is there."""
    sync_all(folder)
    fault_point("publish.ready")
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
        fault_point("publish.aside")
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}.copy")  # the work folder is on another file system
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(folder, beside)
        sync_all(beside)
        fault_point("publish.copied")
        beside.rename(target)
    sync(target.parent)
    fault_point("publish.renamed")
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file, which names the holder; a lock whose holder is gone is free."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_ino != path.stat().st_ino:  # the holder before has just removed it
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):
            file.seek(0)
            holder = file.read().strip() or None
            hint = "wait for it, or end it"
            raise BertGPTError("BG601", f"another process is writing {what}", cause=holder, hint=hint) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def ensure_writable_folder(folder: Path) -> None:
    """Make a folder to write in, before any work; an error if it cannot be made, or not be written in."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise BertGPTError("BG404", "nothing can be written there", path=str(folder), cause=error.strerror) from None


def check_space(folder: Path, needed: int) -> None:
    """Find out before any work whether the disk holds what will be written."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BertGPTError(
            "BG403",
            "the disk is too full",
            path=str(folder),
            cause=f"about {needed:,} bytes are needed, {free:,} are free",
        )


def disk_error(error: OSError, path: Path) -> BertGPTError:
    """What to say when writing fails midway."""
    full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    try:
        free = shutil.disk_usage(path if path.exists() else path.parent).free
    except OSError:
        free = 0
    return BertGPTError(
        "BG403" if full else "BG404",
        "the disk is full" if full else "a file cannot be written",
        path=error.filename or str(path),
        cause=f"{error.strerror}; {free:,} bytes are free",
        hint="make room and run the same command again: what is finished is kept" if full else None,
    )


def link_or_copy(file: Path, place: Path) -> None:
    """Have a finished file stand in the finished folder too."""
    try:
        os.link(file, place)
    except OSError:  # a file system without links
        shutil.copyfile(file, place)
