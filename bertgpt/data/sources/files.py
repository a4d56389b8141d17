"""Local sources: a file, a folder or a glob."""

import glob
import os
from pathlib import Path

from bertgpt.config.corpora import CORPORA
from bertgpt.data.sources.source import FORMATS, Source, detect_format
from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr


def local_sources(name: str) -> list[Source]:
    """A file, a folder or a glob."""
    path = Path(name)
    if os.path.isdir(name):  # noqa: PTH112 - a Path of an impossible name raises
        files = [f for f in sorted(path.rglob("*")) if not any(p[0] == "." for p in f.relative_to(path).parts)]
        missing = f"the folder {name} holds no text that can be read"
    elif os.path.isfile(name):  # noqa: PTH113
        if not detect_format(path):
            known = ", ".join(FORMATS)
            cause = f"the kinds are {known}, each also with .gz or .zst"
            raise BertGPTError("BG211", f"{name} is of no known kind", cause=cause)
        files, missing = [path], ""
    else:
        found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - names may be absolute
        files = [Path(file) for file in found]
        missing = f"nothing matches {short_repr(name)}"
    files = [file for file in files if detect_format(file) and file.is_file()]
    if not files:
        known_names = [file.name for file in path.parent.glob("*")] if os.path.isdir(path.parent) else []  # noqa: PTH112
        near = did_you_mean(path.name, [known for known in known_names if known != path.name])
        raise BertGPTError(
            "BG211", missing, cause=f"looked in {Path.cwd()}", hint=near or did_you_mean(name, ["tinyworld", *CORPORA])
        )
    return [describe_file(file) for file in files]


def describe_file(path: Path) -> Source:
    """A file with its size and kind."""
    format_, compression = detect_format(path) or ("", None)
    try:
        return Source(path.name, path.stat().st_size, format_, compression, str(path))
    except OSError as error:
        raise BertGPTError("BG313", "this file cannot be read", path=str(path), cause=error.strerror) from None
