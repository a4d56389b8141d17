"""`bertgpt tokenize`: turn text into token parts."""

from typing import Any

from bertgpt.commands.artefacts import show_summary
from bertgpt.config import TokenizeOptions
from bertgpt.console import Console


def run(options: TokenizeOptions) -> dict[str, Any]:
    """Do it."""
    from bertgpt.shards.jobs import foresee

    foresee(options)
    from bertgpt.shards.build import tokenize

    return tokenize(options)


def show(result: dict[str, Any], console: Console) -> None:
    """Print what was made."""
    show_summary(result, console)
