"""What a person sees: results on stdout; notes, progress and errors on stderr.

Text that comes from data is shown with its control characters escaped, and never read as markup.
"""

import json
import os
import re
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from bertgpt.utils.errors import BertGPTError

INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}  # controls, bidi and other format marks, surrogates, line separators
COLOURS = {"red": "1;31", "green": "1;32", "yellow": "1;33", "magenta": "1;35", "bold": "1"}
JOINERS = "\u200c\u200d"  # but these shape Persian, Hindi and emoji, and drive nothing


def printable(text: str, one_line: bool = False) -> str:
    """The text with everything escaped that could drive a terminal; line ends and tabs too where one line is wanted."""
    if text.isascii() and text.isprintable():
        return text
    with suppress(UnicodeError):  # arguments arrive as escaped bytes where the locale is C
        text = text.encode(errors="surrogateescape").decode()
    kept = JOINERS if one_line else JOINERS + "\n\t"
    return "".join(
        c if c in kept or unicodedata.category(c) not in INVISIBLE else c.encode("unicode_escape").decode()
        for c in text
    )


def prepare_streams() -> None:
    """Write UTF-8 whatever the locale says, and to nowhere where a stream was closed before we began."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - open to the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


class Progress:
    """A live line on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, label: str, total: int, in_bytes: bool = True, initial: int = 0) -> None:
        self.label, self.total, self.in_bytes, self.initial = label, total, in_bytes, initial  # a total of 0: not known
        self.start = self.shown = time.monotonic()
        self.live = sys.stderr.isatty()

    def update(self, done: int, **found: int | str) -> None:
        """Say how far it is, and what else was counted, or found and is said in words."""
        now = time.monotonic()
        if current is None or current.quiet or now - self.shown < (0.1 if self.live else 5.0):
            return
        self.shown = now
        rate = (done - self.initial) / max(now - self.start, 1e-3)
        left = f", {(self.total - done) / rate:.0f} s left" if rate and done < self.total else ""
        share = f" {100 * done / self.total:.0f} %" if self.total else ""
        said = "".join(f", {n}" if isinstance(n, str) else f", {n:,} {name}" for name, n in found.items())
        speed = f", {rate / 1e6:.1f} MB/s" if self.in_bytes else ""
        line = f"{self.label}:{share}{said}{speed}{left}"
        write_stderr(f"\r\x1b[K{line}" if self.live else line + "\n")

    def end(self) -> None:
        """Take the live line away."""
        if self.live and current is not None and not current.quiet:
            write_stderr("\r\x1b[K")


class Console:
    """The two streams of one command."""

    def __init__(self, json: bool = False, quiet: bool = False) -> None:
        self.json, self.quiet = json, quiet

    def text(self, text: str = "") -> None:
        """A line of the result."""
        write(printable(text) + "\n")

    def heading(self, text: str) -> None:
        """A line that introduces a part of the result; set off by colour on a terminal."""
        write(f"\x1b[1;36m{printable(text)}\x1b[0m\n" if supports_color(sys.stdout) else printable(text) + "\n")

    def inline_styled(self, parts: Iterable[tuple[str, str]]) -> None:
        """Text of which some parts have a colour, where colour is welcome; a sign must say the same elsewhere."""
        for text, colour in parts:
            self.inline(text, colour)
        write("\n")

    def inline(self, text: str, colour: str) -> None:
        """Some text, on the same line as what came before."""
        shown = printable(text)
        write(f"\x1b[{COLOURS[colour]}m{shown}\x1b[0m" if colour and supports_color(sys.stdout) else shown)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table of the result: fitted on a terminal, as wide as it needs anywhere else."""
        from rich import box
        from rich.console import Console as Rich
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell, one_line=True)) for cell in row))
        colour = supports_color(sys.stdout)
        width = None if sys.stdout.isatty() else 100_000
        rich = Rich(force_terminal=colour, no_color=not colour, highlight=False, width=width)
        with rich.capture() as printed:
            rich.print(table)
        write("".join(line.rstrip() + "\n" for line in printed.get().splitlines()))

    def note(self, text: str) -> None:
        """Something worth knowing that is no result."""
        if not self.quiet:
            write_stderr(printable(text) + "\n")

    def result(self, command: str, result: dict[str, Any]) -> None:
        """The one JSON object of a command that went well."""
        self._object({"ok": True, "command": command, "result": result})

    def error(self, error: BertGPTError) -> None:
        """An error, in words on stderr and with --json as the object on stdout."""
        where = f": {error.path}" if error.path else ""
        lines = [f"error[{error.code}]: {error.message}{where}"]
        lines += [f"  cause: {error.cause}"] if error.cause else []
        lines += [f"  hint:  {error.hint}"] if error.hint else []
        write_stderr("".join(printable(line, one_line=True) + "\n" for line in lines))
        if self.json and error.code != "BG402":
            self._object({"ok": False, "error": error.as_json()})

    def _object(self, content: dict[str, Any]) -> None:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        write(re.sub(r"[^\x20-\x7e]", escaped, text) + "\n")


current: Console | None = None  # of the command that runs; Python callers have none, and hear nothing


def note(text: str) -> None:
    """A note on the console of the command that runs, if one does."""
    if current is not None:
        current.note(text)


def silence_non_main() -> None:
    """Say nothing from here on: another process says it."""
    if current is not None:
        current.quiet = True
        silence(sys.stdout)


def escaped(match: re.Match[str]) -> str:
    """A character as JSON may spell it, where printing it could drive a terminal."""
    c = match.group()
    return json.dumps(c)[1:-1] if unicodedata.category(c) in INVISIBLE and c not in JOINERS else c


def write(text: str) -> None:
    """Put text on stdout; that it takes no more is an error of its own."""
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_write(error) from None


def flush() -> None:
    """Have all of it written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_write(error) from None


def cannot_write(error: OSError) -> BertGPTError:
    """Stdout takes no more, and should not be asked again when Python exits."""
    silence(sys.stdout)
    return BertGPTError("BG402", "the output cannot be written", cause=error.strerror)


def silence(stream: Any) -> None:
    """Send what is still in a stream's buffer to nowhere."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def write_stderr(text: str) -> None:
    """Put text on stderr; a stderr that takes nothing changes nothing."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        silence(sys.stderr)


def supports_color(stream: Any) -> bool:
    """Whether colour is welcome there."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
