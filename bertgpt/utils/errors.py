"""What can go wrong, in one shape: a stable code, what happened, where, why, and the way out.

Everything that a user can cause is raised as a `BertGPTError`. `cli.py` turns it into text or JSON and an exit code;
whatever else is raised is a bug. `docs/errors.md` explains each code.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import Any

BUG, USAGE, DATA, ENVIRONMENT, DIVERGED, LOCKED = 1, 2, 3, 4, 5, 6
INTERRUPTED, TERMINATED, BROKEN_PIPE = 130, 143, 141

CODES = {
    "BG101": "a bug in bertgpt",
    "BG201": "no such command",
    "BG202": "no such option",
    "BG203": "an argument is missing, superfluous or malformed",
    "BG204": "a value has the wrong type or is out of bounds",
    "BG205": "a config file cannot be read",
    "BG206": "a config file is not YAML of the plain kind",
    "BG207": "no such section in a config file",
    "BG208": "no such key",
    "BG209": "no such preset",
    "BG210": "there is nothing of this name to look into",
    "BG211": "no such source",
    "BG212": "no such column",
    "BG213": "the output exists and was made otherwise",
    "BG215": "no such document or row",
    "BG218": "no class of transformers computes this, or we do not compute what it does",
    "BG219": "the model has no rows for some ids",
    "BG220": "a file of weights may run code",
    "BG221": "the objective, the preset and the data do not fit together",
    "BG222": "the model does not do that",
    "BG223": "the command runs in one process",
    "BG301": "a text is not UTF-8",
    "BG302": "a line is not JSON",
    "BG303": "a column holds no text",
    "BG304": "a file is not whole",
    "BG305": "the content of a file has changed",
    "BG306": "the files are not those of the manifest",
    "BG307": "there is no manifest, or none that can be read",
    "BG308": "the tokenizers differ",
    "BG309": "an id is none of the tokenizer's",
    "BG310": "there is no text",
    "BG311": "a text is UTF-16",
    "BG312": "a document is too long",
    "BG313": "a source cannot be read",
    "BG314": "a tokenizer cannot be read",
    "BG315": "not everything is tokenized yet",
    "BG316": "there are no sentences of other documents",
    "BG317": "the base shards are others",
    "BG318": "a model cannot be read",
    "BG319": "transformers computes something else from the same weights",
    "BG320": "no checkpoint is whole",
    "BG321": "an answer is not a number",
    "BG322": "labels are missing, or not those of the task",
    "BG323": "a classifier does not converge",
    "BG324": "results are not of the same items",
    "BG401": "an optional package is not installed",
    "BG402": "output cannot be written",
    "BG403": "the disk is full",
    "BG404": "an output cannot be put there",
    "BG405": "GPT-2's vocabulary is not at hand",
    "BG406": "there is not enough memory",
    "BG407": "the hub is offline",
    "BG408": "a server cannot be reached",
    "BG409": "the hub does not let us read",
    "BG410": "a device or its precision is not there",
    "BG411": "another process of a run has ended",
    "BG501": "training diverged",
    "BG601": "another process is writing there",
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
        return _rebuild, (self.code, self.message, self.path, self.cause, self.hint)  # it crosses between processes

    def __str__(self) -> str:
        details = (f"{name}: {value}" for name, value in (("cause", self.cause), ("hint", self.hint)) if value)
        return "; ".join([self.message + (f" ({self.path})" if self.path else ""), *details])

    @property
    def exit_code(self) -> int:
        """What the process exits with."""
        return int(self.code[2])

    def as_json(self) -> dict[str, str | None]:
        """The `error` object of the `--json` envelope."""
        return {"code": self.code, "message": self.message, "path": self.path, "cause": self.cause, "hint": self.hint}


def _rebuild(code: str, message: str, path: str | None, cause: str | None, hint: str | None) -> BertGPTError:
    """An error as it was in another process."""
    return BertGPTError(code, message, path=path, cause=cause, hint=hint)


def short_repr(value: object) -> str:
    """A value as a message shows it, in short; a text is not escaped here but where it is printed."""
    shown = f"'{value}'" if isinstance(value, str) else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:76]}...{shown[-1]}"


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint that names the nearest known word, if one is near."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else None


def require_package(module: str, extra: str) -> ModuleType:
    """An optional dependency, or the command that installs it."""
    try:
        return import_module(module)
    except ImportError as missing:
        raise BertGPTError(
            "BG401",
            f"this needs the package {module.partition('.')[0]}, which is not installed",
            cause=str(missing),
            hint=f"pip install 'bertgpt[{extra}]'",
        ) from missing
