"""Atomic files and folders (write to a temporary name, sync, rename), locks and caches.

Every step after which a crash leaves a different state on disk is a named fault point. Tests kill the process at each
of them: $BERTGPT_FAULT=NAME, or NAME:3 for the third time it is passed.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from bertgpt.utils.errors import BertGPTError

TEMPORARY = re.compile(r"\.([0-9a-f]{8})-(\d+)\.tmp$")
ABANDONED_SECONDS = 86_400
STARTED = time.time()  # of this process, about
NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # Lustre without the option, some NFS servers

_passed: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """Kill the process if $BERTGPT_FAULT names this fault point."""
    requested = os.environ.get("BERTGPT_FAULT")
    if requested is not None:
        _passed[name] += 1
        if requested in (name, f"{name}:{_passed[name]}"):
            os.kill(os.getpid(), signal.SIGKILL)


def cache_folder() -> Path:
    """The cache folder: below $XDG_CACHE_HOME, the home folder, or without one the temporary folder."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        base = Path(tempfile.gettempdir())
    return base / "bertgpt"


def evict_oldest(folder: Path, max_bytes: int) -> None:
    """Remove the oldest files of a cache until it has at most this many bytes."""
    files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in folder.iterdir() if path.is_file())
    surplus = sum(size for _, size, _ in files) - max_bytes
    for _, size, path in files:
        if surplus <= 0:
            return
        path.unlink(missing_ok=True)
        surplus -= size


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(content: Any) -> str:
    """The SHA-256 of JSON content, such as a config; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path to write to, then rename that file to `path`, replacing an existing one.

    A link stays a link: its target is replaced. A device or FIFO is written to. Without `durable` the file survives a
    crash of this process, but may be lost if the machine crashes.
    """
    path = path.resolve() if path.is_symlink() else path
    is_special = path.exists() and not path.is_file() and not path.is_dir()
    folder = Path(tempfile.gettempdir()) if is_special else path.parent
    remove_abandoned(folder)
    temporary = folder / f".{path.name}.{namespace()}-{os.getpid()}.tmp"
    try:
        yield temporary
        fault_point("file.written")
        if is_special:
            with temporary.open("rb") as content, path.open("wb") as out:
                shutil.copyfileobj(content, out)
            temporary.unlink()
            return
        if durable:
            sync(temporary)
        fault_point("file.synced")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)
    fault_point("file.renamed")


@cache
def namespace() -> str:
    """A short name of host, boot and namespace of process ids: within it, no two processes have the same id."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # elsewhere than on Linux
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


@cache
def remove_abandoned(folder: Path) -> None:
    """Remove temporary files of processes that were killed: of this namespace at once, of others after a day."""
    with suppress(OSError):
        for file in folder.glob(".*.tmp"):
            if (match := TEMPORARY.search(file.name)) and is_abandoned(file, *match.groups()):
                file.unlink(missing_ok=True)


def is_abandoned(file: Path, owner_namespace: str, pid: str) -> bool:
    """Whether the process that writes a temporary file has ended, as far as can be seen from here."""
    if owner_namespace != namespace():
        return time.time() - file.stat().st_mtime > ABANDONED_SECONDS
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return int(pid) == os.getpid() and file.stat().st_mtime < STARTED  # of an earlier process with this id


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_write(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, durable: bool = True) -> None:
    """Write a JSON file atomically; equal content gives equal bytes."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text, durable)


def sync(path: Path) -> None:
    """fsync a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_all(folder: Path) -> None:
    """fsync a folder and everything in it."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def publish_atomic(folder: Path, target: Path) -> None:
    """Rename a finished folder to `target`, replacing an existing one. A link stays a link: its target is replaced."""
    target = target.resolve() if target.is_symlink() else target
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
        copy = target.with_name(f".{target.name}.copy")  # the work directory is on another file system
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        sync_all(copy)
        fault_point("publish.copied")
        copy.rename(target)
    sync(target.parent)
    fault_point("publish.renamed")
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file with the name of its holder; the lock of a dead process is free."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held: AbstractContextManager[None] = nullcontext()
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_ino != path.stat().st_ino:  # the previous holder has just removed it
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):
            raise locked_error(file, what) from None
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            held = soft_lock(path, file, what)
        with held:
            file.truncate(0)
            file.write(f"pid {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield


@contextmanager
def soft_lock(path: Path, file: IO[str], what: str) -> Iterator[None]:
    """A lock file that exists as long as its holder lives, for network file systems without flock."""
    from filelock import SoftFileLock, Timeout

    soft = SoftFileLock(path.with_name(f"{path.name}.soft"), timeout=0)
    try:
        soft.acquire()
    except Timeout:
        raise locked_error(file, what) from None
    try:
        yield
    finally:
        soft.release()


def locked_error(file: IO[str], what: str) -> BertGPTError:
    """The error for a lock that another process holds, and has written its name to."""
    file.seek(0)
    holder = file.read().strip() or None
    return BertGPTError(
        "BG601", f"another process is writing {what}", cause=holder, hint="wait until it ends, or stop it"
    )


def ensure_writable_folder(folder: Path) -> None:
    """Create a folder if needed and check that it is writable, before any work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise BertGPTError("BG404", "output folder is not writable", path=str(folder), cause=error.strerror) from None


def link_or_copy(file: Path, place: Path) -> None:
    """Hard-link a file into another folder, or copy it where links are not supported."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)
