"""Atomic files: links, devices, files of killed processes; locks, also where flock is not supported."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bertgpt.utils import files
from bertgpt.utils.disk import disk_error
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import lock, namespace, publish_atomic, write_text

DEAD = "12345678-1"  # a namespace that is not ours


def temporary_of(path: Path, owner: str, age: float = 0.0) -> Path:
    file = path.with_name(f".{path.name}.{owner}.tmp")
    file.write_text("half")
    past = file.stat().st_mtime - age
    os.utime(file, (past, past))
    return file


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """At the first write to a folder: those of processes that have ended here, and old ones of other hosts."""
    ours, out = namespace(), tmp_path / "out.json"
    dead = temporary_of(out, f"{ours}-{dead_pid()}")
    reused = temporary_of(out, f"{ours}-{os.getpid()}", age=100_000)
    own = temporary_of(tmp_path / "own", f"{ours}-{os.getpid()}")  # another thread is writing it
    old = temporary_of(out, DEAD, age=100_000)
    alive = temporary_of(tmp_path / "other", f"{ours}-{os.getppid()}")
    elsewhere = temporary_of(tmp_path / "other", DEAD)
    unrelated = tmp_path / ".notes.tmp"
    unrelated.write_text("mine")
    files.remove_abandoned.cache_clear()
    write_text(out, "done")
    assert [path.exists() for path in (dead, reused, old)] == [False] * 3
    assert [path.exists() for path in (own, alive, elsewhere, unrelated, out)] == [True] * 5


def test_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (target := tmp_path / "real" / "page.html").write_text("before")
    (link := tmp_path / "page.html").symlink_to(target)
    write_text(link, "after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["page.html"]


def test_fifo_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(fifo := tmp_path / "fifo")
    reader = threading.Thread(target=lambda: received.append(fifo.read_text()))
    received: list[str] = []
    reader.start()
    write_text(fifo, "text")
    reader.join(10)
    assert (received, fifo.is_fifo()) == (["text"], True)
    assert list(tmp_path.iterdir()) == [fifo]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_lock_without_flock(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process is refused as with flock; the lock of a dead process is free."""

    def unsupported(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    path = tmp_path / "run.lock"
    code = (
        "import sys, os\nfrom filelock import SoftFileLock\nSoftFileLock(sys.argv[1], timeout=0).acquire()\nos._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, f"{path}.soft"], check=True)
    with lock(path, "the run"):
        with pytest.raises(BertGPTError) as error, lock(path, "the run"):
            pass
        assert (error.value.code, error.value.cause) == ("BG601", path.read_text())
    with lock(path, "the run"):
        assert path.exists()


def test_errors_of_the_disk_are_recognized() -> None:
    """Also where a library has the number in its message only; other errors are not blamed on the disk."""
    full = OSError(errno.ENOSPC, "No space left on device", "a.bin")
    rust = ValueError("I/O error: No space left on device (os error 28)")
    copied = OSError([("a", "b", "[Errno 5] Input/output error: 'b'")])
    codes = [error and error.code for error in map(disk_error, (full, rust, copied, ValueError("x"), OSError("y")))]
    assert codes == ["BG403", "BG403", "BG404", None, None]


def test_output_that_is_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    for name in ("larger-disk/out", "made"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "made" / "content").write_text("new")
    (link := tmp_path / "out").symlink_to(tmp_path / "larger-disk" / "out")
    publish_atomic(tmp_path / "made", link)
    assert link.is_symlink()
    assert (tmp_path / "larger-disk" / "out" / "content").read_text() == "new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["content", "larger-disk", "out", "out"]
