"""`bertgpt report`: one page about some runs."""

from pathlib import Path
from typing import Any

from bertgpt.config.options import ReportOptions
from bertgpt.utils.console import Console


def run(options: ReportOptions) -> dict[str, Any]:
    """Do it."""
    from bertgpt.reports.page import report

    figures = Path(options.metrics_dir) if options.metrics_dir else None
    return report(options.runs, Path(options.out), Path(options.results), figures)


def show(result: dict[str, Any], console: Console) -> None:
    """Print the one table."""
    from bertgpt.reports.scores import Row, shown_cell

    names = result["runs"]
    rows = [Row(**row) for row in result["table"]]
    console.table(
        ("", *names),
        ([("  " if row.baseline else "") + row.score, *(shown_cell(row, name) for name in names)] for row in rows),
    )
    for note in result["notes"]:
        console.text(note)
    console.text()
    console.text(f"all of it in {result['path']}")
