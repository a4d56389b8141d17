"""How the commands show an artefact on disk."""

from typing import Any

from bertgpt.utils.console import Console


def show_summary(result: dict[str, Any], console: Console) -> None:
    """A table of the splits, or what a dry run found."""
    if "counts" not in result:
        console.table(("would be done", ""), ((name, format_number(value)) for name, value in result.items()))
        return
    whole = {"files": result["files"]} | {name: result["counts"][name] for name in ("documents", "tokens", "bytes")}
    rows = [(name, *(format_number(part.get(key, 0)) for key in whole)) for name, part in result["splits"].items()]
    if not rows:
        rows = [("all", *(format_number(value) for value in whole.values()))]
    console.heading(f"{result['kind']} in {result['path']} ({result['dtype']})")
    console.table(("split", "files", "documents", "tokens", "text bytes"), rows)
    left_out = {name: n for name, n in result["counts"].items() if name not in whole and n}
    if left_out:
        console.text(", ".join(f"{name.replace('_', ' ')}: {format_number(n)}" for name, n in left_out.items()))


def format_number(value: Any) -> str:
    """A number as people read it."""
    return f"{value:,}" if isinstance(value, int) else str(value)
