"""Free space, and the errors of full and broken disks."""

import errno
import os
import re
import shutil
from pathlib import Path

from bertgpt.utils.errors import BertGPTError

DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
DISK_BROKEN = (
    errno.EIO, errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
    errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ENXIO, errno.ENODEV, errno.ESTALE,
)  # fmt: skip


def check_space(folder: Path, needed: int) -> None:
    """Check before any work that the disk has this many free bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BertGPTError(
            "BG403",
            "not enough disk space",
            path=str(folder),
            cause=f"about {needed:,} bytes are needed, {free:,} are free",
        )


def disk_errno(error: BaseException) -> int | None:
    """The error number of a failure of the disk; libraries in Rust and `shutil.copytree` have it in their text only."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", str(error))):
        number = int(match.group(1) or match.group(2))
    return number if number in (*DISK_FULL, *DISK_BROKEN) else None


def disk_error(error: BaseException, path: Path | None = None) -> BertGPTError | None:
    """The error for a full or broken disk; None if the error has another reason. `path` if it does not say where."""
    number = disk_errno(error)
    if number is None:
        return None
    name = getattr(error, "filename", None) or path
    place = nearest_existing(Path(os.fsdecode(name)) if name is not None else Path.cwd())
    try:
        free = f"; {shutil.disk_usage(place).free:,} bytes are free"
    except OSError:
        free = ""
    full = number in DISK_FULL
    return BertGPTError(
        "BG403" if full else "BG404",
        "the disk is full" if full else "a file cannot be read or written",
        path=None if name is None else os.fsdecode(name),
        cause=f"{os.strerror(number)}{free}",
        hint="free some space and rerun to resume; finished work is kept" if full else None,
    )


def nearest_existing(path: Path) -> Path:
    """The path itself, or its nearest parent folder that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
