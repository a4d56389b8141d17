"""Errors: one exception with a stable code, a message, and where known the path, the cause and a hint.

Everything that a user can cause is raised as a `BertGPTError`. `cli/app.py` turns it into text or JSON and an exit
code; any other exception is a bug. `docs/errors.md` explains each code.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import Any

BUG, USAGE, DATA, ENVIRONMENT, DIVERGED, LOCKED = 1, 2, 3, 4, 5, 6
INTERRUPTED, TERMINATED, BROKEN_PIPE = 130, 143, 141

CODES = {
    "BG101": "bug in bertgpt",
    "BG201": "no such command",
    "BG202": "no such option",
    "BG203": "missing, extra or malformed argument",
    "BG204": "invalid value",
    "BG205": "config file cannot be read",
    "BG206": "config file is not plain YAML",
    "BG207": "no such section in a config file",
    "BG208": "no such key",
    "BG209": "no such preset",
    "BG210": "nothing to inspect under this name",
    "BG211": "no such source",
    "BG212": "no such column",
    "BG213": "output exists with different options",
    "BG215": "no such document or row",
    "BG218": "model cannot be converted to or from transformers",
    "BG219": "tokenizer has ids beyond the model's vocab_size",
    "BG220": "weights are a pickle",
    "BG221": "objective, preset and data do not match",
    "BG222": "model does not support this",
    "BG223": "command runs in one process only",
    "BG301": "text is not UTF-8",
    "BG302": "line is not JSON",
    "BG303": "column holds no text",
    "BG304": "file size does not match the manifest",
    "BG305": "checksum mismatch",
    "BG306": "files do not match the manifest",
    "BG307": "manifest is missing or cannot be read",
    "BG308": "tokenizers do not match",
    "BG309": "token id outside the vocabulary",
    "BG310": "no text",
    "BG311": "text is UTF-16",
    "BG312": "document is too long",
    "BG313": "source cannot be read",
    "BG314": "tokenizer cannot be read",
    "BG315": "tokenization is not finished",
    "BG316": "cannot sample negatives",
    "BG317": "base shards do not match the mask plan",
    "BG318": "model cannot be read",
    "BG319": "exported logits do not match transformers",
    "BG320": "no valid checkpoint",
    "BG321": "model output is NaN",
    "BG322": "labels are missing or do not match the task",
    "BG323": "classifier does not converge",
    "BG324": "results cover different items",
    "BG401": "optional package is not installed",
    "BG402": "output cannot be written",
    "BG403": "disk is full",
    "BG404": "output folder is not writable",
    "BG405": "GPT-2 vocabulary is not available",
    "BG406": "out of memory",
    "BG407": "hub is offline",
    "BG408": "server cannot be reached",
    "BG409": "access to the hub denied",
    "BG410": "device or precision is not available",
    "BG411": "a peer rank exited",
    "BG501": "training diverged",
    "BG601": "another process is writing to the output",
}


class BertGPTError(Exception):
    """An error that a user can understand and act on. The first digit of the code is the exit code."""

    def __init__(
        self, code: str, message: str, *, path: str | None = None, cause: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.path, self.cause, self.hint = code, message, path, cause, hint
        assert code in CODES, code

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors are sent between processes.
        return _rebuild, (self.code, self.message, self.path, self.cause, self.hint)

    def __str__(self) -> str:
        details = (f"{name}: {value}" for name, value in (("cause", self.cause), ("hint", self.hint)) if value)
        return "; ".join([self.message + (f" ({self.path})" if self.path else ""), *details])

    @property
    def exit_code(self) -> int:
        """The exit code of the process."""
        return int(self.code[2])

    def as_json(self) -> dict[str, str | None]:
        """The `error` object of the `--json` envelope."""
        return {"code": self.code, "message": self.message, "path": self.path, "cause": self.cause, "hint": self.hint}


def _rebuild(code: str, message: str, path: str | None, cause: str | None, hint: str | None) -> BertGPTError:
    """Rebuild an error that was raised in another process."""
    return BertGPTError(code, message, path=path, cause=cause, hint=hint)


def short_repr(value: object) -> str:
    """A value for a message, truncated; control characters are escaped later, when the message is printed."""
    shown = f"'{value}'" if isinstance(value, str) else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:76]}...{shown[-1]}"


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint with the most similar known word, if there is one."""
    nearest = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {nearest[0]}?" if nearest else None


def require_package(module: str, extra: str) -> ModuleType:
    """Import an optional dependency; the error names the command that installs it."""
    try:
        return import_module(module)
    except ImportError as missing:
        raise BertGPTError(
            "BG401",
            f"package {module.partition('.')[0]} is not installed",
            cause=str(missing),
            hint=f"pip install 'bertgpt[{extra}]'",
        ) from missing
