"""`bertgpt report`: an HTML report on runs, and its results table."""

from pathlib import Path
from typing import Any

from bertgpt.config.options import ReportOptions
from bertgpt.utils.console import Console


def run(options: ReportOptions) -> dict[str, Any]:
    """Write the report; returns the results table."""
    from bertgpt.reports.page import write_report

    metrics_dir = Path(options.metrics_dir) if options.metrics_dir else None
    return write_report(options.runs, Path(options.out), Path(options.results), metrics_dir)


def show(result: dict[str, Any], console: Console) -> None:
    """Print the results table."""
    from bertgpt.reports.scores import Row, format_cell

    names = result["runs"]
    rows = [Row(**row) for row in result["table"]]
    console.table(
        ("", *names),
        ([("  " if row.baseline else "") + row.score, *(format_cell(row, name) for name in names)] for row in rows),
    )
    for note in result["notes"]:
        console.text(note)
    console.text()
    console.text(f"full report: {result['path']}")
