"""Local sources: a file, a folder or a glob pattern."""

import glob
import os
from pathlib import Path

from bertgpt.config.corpora import CORPORA
from bertgpt.data.sources.source import Source, detect_format, unreadable_error, unsupported_format
from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr


def local_sources(name: str) -> list[Source]:
    """The readable text files that a file name, a folder or a glob pattern stands for."""
    path = Path(name)
    if os.path.isdir(name):  # noqa: PTH112 - Path raises for an impossible name
        files = [f for f in sorted(path.rglob("*")) if not any(p[0] == "." for p in f.relative_to(path).parts)]
        message = f"no readable text file in folder {name}"
    elif os.path.isfile(name):  # noqa: PTH113
        if not detect_format(path):
            raise unsupported_format(name)
        files, message = [path], ""
    else:
        files = [Path(file) for file in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207 - may be absolute
        message = f"no file matches {short_repr(name)}"
    files = [file for file in files if detect_format(file) and file.is_file()]
    if not files:
        neighbors = [file.name for file in path.parent.glob("*")] if os.path.isdir(path.parent) else []  # noqa: PTH112
        hint = did_you_mean(path.name, [neighbor for neighbor in neighbors if neighbor != path.name])
        hint = hint or did_you_mean(name, ["tinyworld", *CORPORA])
        raise BertGPTError("BG211", message, cause=f"searched in {Path.cwd()}", hint=hint)
    return [describe_file(file) for file in files]


def describe_file(path: Path) -> Source:
    """A local file with its size, format and compression."""
    format_, compression = detect_format(path) or ("", None)
    try:
        return Source(path.name, path.stat().st_size, format_, compression, str(path))
    except OSError as error:
        raise unreadable_error(str(path), error) from None
