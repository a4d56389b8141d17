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
    if "memory" in result:
        plan = ((name.replace("_", " "), planned(name, value)) for name, value in result.items())
        console.table(("would be done", ""), plan)
        return
    console.heading(f"{result['parameters']:,} weights in {result['path']}, {result['steps']:,} steps")
    figures = {name: value for name, value in result.items() if name.startswith(("train_", "val_"))}
    rows = []
    names = list(dict.fromkeys(name.partition("_")[2] for name in figures))
    terms = [term for term in ("causal", "masked", "pairs") if f"{term}_loss" in names]
    if len(terms) == 1:  # it is the whole
        names = [name for name in names if name not in (f"{terms[0]}_loss", f"{terms[0]}_acc")]
    for name in names:
        found = [figures.get(f"{split}_{name}") for split in ("train", "val")]
        rows.append([name.replace("_", " "), *("" if value is None else f"{value:.4g}" for value in found)])
    console.table(("", "train", "held out"), rows)


def planned(name: str, value: Any) -> str:
    """A figure of a dry run."""
    if name in ("memory", "checkpoint_bytes", "disk_free"):
        return f"{value / 1e9:,.2f} GB"
    return f"{value:.3g}" if name == "flops" else shown(value)
