"""`bertgpt pretrain`: a model from scratch."""

from typing import Any

from bertgpt.commands.artefacts import shown
from bertgpt.config import PretrainOptions
from bertgpt.console import Console


def run(options: PretrainOptions) -> dict[str, Any]:
    """Do it."""
    from bertgpt.pretraining import pretrain

    return pretrain(options)


def show(result: dict[str, Any], console: Console) -> None:
    """Print what came of it."""
    if "flops" in result:
        said = {name: f"{value:.3g}" if name == "flops" else shown(value) for name, value in result.items()}
        console.table(("would be done", ""), ((name.replace("_", " "), value) for name, value in said.items()))
        return
    console.heading(f"{result['parameters']:,} weights in {result['path']}, {result['steps']:,} steps")
    figures = {name: value for name, value in result.items() if name.startswith(("train_", "val_"))}
    rows = []
    for name in dict.fromkeys(name.partition("_")[2] for name in figures):
        found = [figures.get(f"{split}_{name}") for split in ("train", "val")]
        rows.append([name.replace("_", " "), *("" if value is None else f"{value:.4g}" for value in found)])
    console.table(("", "train", "held out"), rows)
