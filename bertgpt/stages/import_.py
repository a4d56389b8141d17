"""`bertgpt import`: a model of transformers as one of ours."""

from pathlib import Path
from typing import Any

from bertgpt.config.options import ImportOptions
from bertgpt.utils.console import Console


def run(options: ImportOptions) -> dict[str, Any]:
    """Do it."""
    from bertgpt.hub.to_hf import import_hf

    return import_hf(options.source, Path(options.out), options.overwrite)


def show(result: dict[str, Any], console: Console) -> None:
    """Print what was read."""
    console.heading(f"{result['parameters'] / 1e6:.1f} M weights in {result['path']}")
    console.text(f"layout {result['layout']}, objective {result['objective']}")
