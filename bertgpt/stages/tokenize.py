"""`bertgpt tokenize`: turn text into token parts."""

from typing import Any

from bertgpt.config.options import TokenizeOptions
from bertgpt.utils.console import Console
from bertgpt.utils.tables import show_summary


def run(options: TokenizeOptions) -> dict[str, Any]:
    """Do it."""
    from bertgpt.data.build.prestart import prestart_workers

    prestart_workers(options)
    from bertgpt.data.build.build import tokenize

    return tokenize(options)


def show(result: dict[str, Any], console: Console) -> None:
    """Print what was made."""
    show_summary(result, console)
