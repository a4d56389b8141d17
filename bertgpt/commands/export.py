"""`bertgpt export`: an artefact in the form that other tools read."""

from pathlib import Path
from typing import Any

from bertgpt.commands.artefacts import shown
from bertgpt.config import ExportOptions
from bertgpt.console import Console


def run(options: ExportOptions) -> dict[str, Any]:
    """Do it."""
    from bertgpt.shards.export import to_bin

    return to_bin(Path(options.path), Path(options.out), options.fresh)


def show(result: dict[str, Any], console: Console) -> None:
    """Print what was written."""
    console.heading(f"{result['dtype']} ids in {result['path']}")
    keys = ("path", "tokens", "bytes")
    console.table(("file", *keys[1:]), [[shown(file[key]) for key in keys] for file in result["files"]])
