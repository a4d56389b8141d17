"""`bertgpt finetune`: from a pretrained model to a task."""

from typing import Any

from bertgpt.commands.artefacts import shown
from bertgpt.commands.eval import show_found
from bertgpt.config import FinetuneOptions
from bertgpt.console import Console


def run(options: FinetuneOptions) -> dict[str, Any]:
    """Do it."""
    from bertgpt.finetuning import finetune

    return finetune(options)


def show(result: dict[str, Any], console: Console) -> None:
    """Print what came of it."""
    if "runs" in result:
        told = result | {"classes": ", ".join(result["classes"]) or "numbers"}
        console.table(("would be done", ""), ((name.replace("_", " "), shown(v)) for name, v in told.items()))
    elif "scores" in result:
        show_found(result, console)
        console.text()
        console.text(f"a model of {result['parameters']:,} weights in {result['path']}")
