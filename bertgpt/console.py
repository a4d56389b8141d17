"""What a person sees: results on stdout; notes, progress and errors on stderr.

Text that comes from data is shown with its control characters escaped, and never read as markup.
"""

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from bertgpt.errors import BertGPTError

INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}  # controls, bidi and other format marks, surrogates, line separators


def printable(text: str) -> str:
    """The text with everything escaped that could drive a terminal; line ends and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    with suppress(UnicodeError):  # arguments arrive as escaped bytes where the locale is C
        text = text.encode(errors="surrogateescape").decode()
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in INVISIBLE else c.encode("unicode_escape").decode()
        for c in text
    )


def use_utf8() -> None:
    """Write UTF-8 whatever the locale says, and never fail on a character."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


class Console:
    """The two streams of one command."""

    def __init__(self, json: bool = False, quiet: bool = False) -> None:
        self.json, self.quiet = json, quiet

    def text(self, text: str = "") -> None:
        """A line of the result."""
        sys.stdout.write(printable(text) + "\n")

    def heading(self, text: str) -> None:
        """A line that introduces a part of the result; set off by colour on a terminal."""
        sys.stdout.write(f"\x1b[1;36m{printable(text)}\x1b[0m\n" if colourful(sys.stdout) else printable(text) + "\n")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table of the result: as wide as it needs where nobody folds lines, fitted on a terminal."""
        from rich import box
        from rich.console import Console as Rich
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text(printable(cell), overflow="fold") for cell in row))
        colour = colourful(sys.stdout)
        Rich(file=sys.stdout, force_terminal=colour, no_color=not colour, highlight=False).print(table)

    def note(self, text: str) -> None:
        """Something worth knowing that is no result."""
        if not self.quiet:
            sys.stderr.write(printable(text) + "\n")

    def result(self, command: str, result: dict[str, Any]) -> None:
        """The one JSON object of a command that went well."""
        self._object({"ok": True, "command": command, "result": result})

    def error(self, error: BertGPTError) -> None:
        """An error, in words on stderr and with --json as the object on stdout."""
        if self.json:
            self._object({"ok": False, "error": error.as_json()})
        where = f": {error.path}" if error.path else ""
        lines = [f"error[{error.code}]: {error.message}{where}"]
        lines += [f"  cause: {error.cause}"] if error.cause else []
        lines += [f"  hint:  {error.hint}"] if error.hint else []
        sys.stderr.write("".join(printable(line) + "\n" for line in lines))

    def _object(self, content: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")


def colourful(stream: Any) -> bool:
    """Whether colour is welcome there."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and "NO_COLOR" not in os.environ
