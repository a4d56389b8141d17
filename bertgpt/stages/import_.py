"""`bertgpt import`: import a model of transformers as a run."""

from pathlib import Path
from typing import Any

from bertgpt.config.options import ImportOptions
from bertgpt.utils.console import Console


def run(options: ImportOptions) -> dict[str, Any]:
    """Import the model; returns path, layout, objective and parameter count."""
    from bertgpt.hub.from_hf import import_hf

    return import_hf(options.source, Path(options.out), options.overwrite)


def show(result: dict[str, Any], console: Console) -> None:
    """Print what was imported."""
    console.heading(f"{result['parameters'] / 1e6:.1f} M parameters in {result['path']}")
    console.text(f"layout {result['layout']}, objective {result['objective']}")
