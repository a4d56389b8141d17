"""Console output: results on stdout; notes, progress and errors on stderr.

Control characters in text from data are escaped, and such text is never parsed as markup.
"""

import io
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

# Unicode categories that are escaped: controls, bidi and other format marks, surrogates, line separators.
INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
COLORS = {"red": "1;31", "green": "1;32", "yellow": "1;33", "magenta": "1;35", "bold": "1"}
JOINERS = "\u200c\u200d"  # not escaped: Persian, Hindi and emoji need them, and they control no terminal


def printable(text: str, one_line: bool = False) -> str:
    """Escape characters that could control a terminal; with `one_line` also line breaks and tabs."""
    if text.isascii() and text.isprintable():
        return text
    with suppress(UnicodeError):  # in the C locale, arguments arrive as surrogate-escaped bytes
        text = text.encode(errors="surrogateescape").decode()
    allowed = JOINERS if one_line else JOINERS + "\n\t"
    return "".join(
        c if c in allowed or unicodedata.category(c) not in INVISIBLE else c.encode("unicode_escape").decode()
        for c in text
    )


def prepare_streams() -> None:
    """Make stdout and stderr write UTF-8 in any locale; a stream that was closed at the start discards its output."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - open until exit
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


class Progress:
    """Progress display: one updated line on a terminal, otherwise a new line every few seconds."""

    def __init__(self, label: str, total: int, in_bytes: bool = True, initial: int = 0) -> None:
        self.label, self.total, self.in_bytes, self.initial = label, total, in_bytes, initial  # total 0: unknown
        self.start = self.shown = time.monotonic()
        self.live = sys.stderr.isatty()

    def update(self, done: int, **extra: int | str) -> None:
        """Show percentage, speed and time left, with further counts by name and texts."""
        now = time.monotonic()
        if current is None or current.quiet or now - self.shown < (0.1 if self.live else 5.0):
            return
        self.shown = now
        rate = (done - self.initial) / max(now - self.start, 1e-3)
        left = f", {(self.total - done) / rate:.0f} s left" if rate and done < self.total else ""
        percent = f" {100 * done / self.total:.0f} %" if self.total else ""
        details = "".join(f", {n}" if isinstance(n, str) else f", {n:,} {name}" for name, n in extra.items())
        speed = f", {rate / 1e6:.1f} MB/s" if self.in_bytes else ""
        line = f"{self.label}:{f'{percent}{details}{speed}{left}'.removeprefix(',')}"
        write_stderr(f"\r\x1b[K{line}" if self.live else line + "\n")

    def end(self) -> None:
        """Clear the updated line."""
        if self.live and current is not None and not current.quiet:
            write_stderr("\r\x1b[K")


class Console:
    """The output streams of one command."""

    def __init__(self, json: bool = False, quiet: bool = False) -> None:
        self.json, self.quiet = json, quiet

    def text(self, text: str = "") -> None:
        """Print a line of the result."""
        write(printable(text) + "\n")

    def heading(self, text: str) -> None:
        """Print a heading, in color on a terminal."""
        write(f"\x1b[1;36m{printable(text)}\x1b[0m\n" if supports_color(sys.stdout) else printable(text) + "\n")

    def inline_styled(self, parts: Iterable[tuple[str, str]]) -> None:
        """Print a line of (text, color) parts; elsewhere than on a terminal the text alone must be clear."""
        for text, color in parts:
            self.inline(text, color)
        write("\n")

    def inline(self, text: str, color: str) -> None:
        """Print text without ending the line."""
        shown = printable(text)
        write(f"\x1b[{COLORS[color]}m{shown}\x1b[0m" if color and supports_color(sys.stdout) else shown)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table: fitted to a terminal, as wide as its content elsewhere."""
        from rich import box
        from rich.console import Console as Rich
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell, one_line=True)) for cell in row))
        color = supports_color(sys.stdout)
        width = None if sys.stdout.isatty() else 100_000
        printed = io.StringIO()  # not stdout, whose errors Rich would raise as they are
        Rich(file=printed, force_terminal=color, no_color=not color, highlight=False, width=width).print(table)
        write("".join(line.rstrip() + "\n" for line in printed.getvalue().splitlines()))

    def info(self, text: str) -> None:
        """Print a note to stderr."""
        if not self.quiet:
            write_stderr(printable(text, one_line=True) + "\n")

    def result(self, command: str, result: dict[str, Any]) -> None:
        """Print the JSON envelope of a result."""
        self._object({"ok": True, "command": command, "result": result})

    def error(self, error: BertGPTError) -> None:
        """Print an error to stderr; with --json also its JSON envelope to stdout."""
        location = f": {error.path}" if error.path else ""
        lines = [f"error[{error.code}]: {error.message}{location}"]
        lines += [f"  cause: {error.cause}"] if error.cause else []
        lines += [f"  hint:  {error.hint}"] if error.hint else []
        write_stderr("".join(printable(line, one_line=True) + "\n" for line in lines))
        if self.json and error.code != "BG402":
            self._object({"ok": False, "error": error.as_json()})

    def _object(self, content: dict[str, Any]) -> None:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        write(re.sub(r"[^\x20-\x7e]", escaped, text) + "\n")


current: Console | None = None  # of the running command; None for Python callers, who get no notes


def info(text: str) -> None:
    """Print a note on the console of the running command, if there is one."""
    if current is not None:
        current.info(text)


def silence_non_main() -> None:
    """Stop all output of this rank; the main rank prints it."""
    if current is not None:
        current.quiet = True
        silence(sys.stdout)


def escaped(match: re.Match[str]) -> str:
    """A character, as a JSON escape if it could control a terminal."""
    c = match.group()
    return json.dumps(c)[1:-1] if unicodedata.category(c) in INVISIBLE and c not in JOINERS else c


def write(text: str) -> None:
    """Write text to stdout; raises BG402 if that fails, and BrokenPipeError if the reader has gone."""
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_write(error) from None


def flush() -> None:
    """Flush stdout, with the errors of `write`."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_write(error) from None


def cannot_write(error: OSError) -> BertGPTError:
    """The error for a failed write to stdout, which also keeps Python from writing again at exit."""
    silence(sys.stdout)
    return BertGPTError("BG402", "the output cannot be written", cause=error.strerror)


def silence(stream: Any) -> None:
    """Discard what a stream has buffered, and all further output."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def write_stderr(text: str) -> None:
    """Write text to stderr; failures are ignored."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        silence(sys.stderr)


def supports_color(stream: Any) -> bool:
    """Whether a stream is a terminal with colors, and $NO_COLOR is not set."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
