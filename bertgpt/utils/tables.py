"""Tables of artifacts on disk, as the commands print them."""

from collections.abc import Container
from typing import Any

from bertgpt.utils.console import Console


def show_summary(result: dict[str, Any], console: Console) -> None:
    """Print a table of the splits; of a dry run or a task, what it returned."""
    if "counts" not in result:
        show_dry_run(result, console)
        return
    total = {"files": result["files"]} | {name: result["counts"][name] for name in ("documents", "tokens", "bytes")}
    rows = [(name, *(format_number(split.get(key, 0)) for key in total)) for name, split in result["splits"].items()]
    if not rows:
        rows = [("all", *(format_number(value) for value in total.values()))]
    console.heading(f"{result['kind']} in {result['path']} ({result['dtype']})")
    console.table(("split", "files", "documents", "tokens", "text bytes"), rows)
    if others := format_counts(result["counts"], leave_out=total):
        console.text(others)


def show_dry_run(result: dict[str, Any], console: Console) -> None:
    """Print what a dry run found, or what a task of an array job did."""
    title = "task" if "task_index" in result else "dry run"
    console.table((title, ""), ((name.replace("_", " "), with_unit(name, value)) for name, value in result.items()))


def format_counts(counts: dict[str, int], leave_out: Container[str]) -> str:
    """Counts that are not zero as one line."""
    shown = {name.replace("_", " "): n for name, n in counts.items() if n and name not in leave_out}
    return ", ".join(f"{name}: {format_number(n)}" for name, n in shown.items())


def format_number(value: Any) -> str:
    """A number with thousands separators."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def with_unit(name: str, value: Any) -> str:
    """A value of a dry run with its unit."""
    if name in ("memory", "checkpoint_bytes", "disk_needed", "disk_free"):
        return f"{value / 1e9:,.2f} GB"
    return f"{value:.3g}" if name == "flops" else format_number(value)


def show_metrics(result: dict[str, Any], console: Console) -> None:
    """A table of the last metrics of the train and val splits."""
    metrics = {name: value for name, value in result.items() if name.startswith(("train_", "val_"))}
    names = list(dict.fromkeys(name.partition("_")[2] for name in metrics))
    terms = [term for term in ("clm", "mlm", "nsp") if f"{term}_loss" in names]
    if len(terms) == 1:  # the same as the total
        names = [name for name in names if name not in (f"{terms[0]}_loss", f"{terms[0]}_acc")]
    rows = []
    for name in names:
        values = [metrics.get(f"{split}_{name}") for split in ("train", "val")]
        rows.append([name.replace("_", " "), *("" if value is None else f"{value:.4g}" for value in values)])
    console.table(("", "train", "val"), rows)


def show_scores(result: dict[str, Any], console: Console) -> None:
    """Print the scores and baselines of a suite, and its notes."""
    partial = "PARTIAL, " if result["partial"] else ""
    console.heading(f"{result['suite']} · {partial}n = {result['n']:,} · {result['definition']}")
    rows = [
        [name, format_value(score["value"]), format_interval(score), kind]
        for kind, table in (("", result["scores"]), ("baseline", result["baselines"]))
        for name, score in table.items()
    ]
    console.table(("score", "value", "95% interval", ""), rows)
    for note in result["notes"]:
        console.text(note)


def format_value(value: float) -> str:
    """A score for a table."""
    if abs(value) < 1000:
        return f"{value:.4f}"
    return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.2e}"


def format_interval(score: dict[str, Any]) -> str:
    """A 95 % interval for a table."""
    if score["low"] is None:
        return ""
    return f"{format_value(score['low'])} to {format_value(score['high'])}"
