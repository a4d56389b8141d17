"""`bertgpt mask`: plan the rows of masked-language-model training."""

from typing import Any

from bertgpt.config.options import MaskOptions
from bertgpt.utils.console import Console
from bertgpt.utils.tables import format_number


def run(options: MaskOptions) -> dict[str, Any]:
    """Do it."""
    from bertgpt.data.build.mask_plan import build_mask_plan

    return build_mask_plan(options)


def show(result: dict[str, Any], console: Console) -> None:
    """Print what was planned."""
    if "splits" not in result:
        console.table(("would be done", ""), ((name, format_number(value)) for name, value in result.items()))
        return
    console.heading(f"plan in {result['path']}: rows of {result['seq_len']}, vocabulary {result['vocabulary']:,}")
    rows = []
    for name, split in result["splits"].items():
        room = split["rows"] * result["seq_len"]
        rows.append(
            (
                name,
                *(format_number(split[key]) for key in ("files", "rows", "tokens")),
                f"{split['padding'] / max(room, 1):.2%}",
            )
        )
    console.table(("split", "files", "rows", "tokens", "padding"), rows)
    counts = {name.replace("_", " "): n for name, n in result["counts"].items() if n and name not in ("rows", "tokens")}
    console.text(", ".join(f"{name}: {format_number(n)}" for name, n in counts.items()))
