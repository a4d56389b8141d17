"""Rows of the results table: losses, scores and baselines of each run, read from the files that commands wrote.

Nothing is computed here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bertgpt.reports.runs import ReportRun

LOSSES = {"clm": "val loss, CLM (nats/token)", "mlm": "val loss, MLM (nats/masked token)"}
PROBES = {task: f"{task}, linear probe" for task in ("topic", "sentiment", "acceptability")}  # labels in the table
TINYWORLD = (  # the main scores of the tinyworld suite
    "excess over the true entropy", "masked-word accuracy", "share of the Bayes optimum", "story completion",
    "minimal pairs", *PROBES,
)  # fmt: skip
PERCENT = ("excess over the true entropy", "share of the Bayes optimum")
Cell = dict[str, Any]  # value, low, high


@dataclass
class Row:
    """One score of every run that has it, by the name of the run; or a baseline of the score above."""

    score: str
    baseline: bool = False
    percent: bool = False
    runs: dict[str, Cell] = field(default_factory=dict)


def format_cell(row: Row, run: str) -> str:
    """A value as the tables show it."""
    if run not in row.runs:
        return "-"
    value = row.runs[run]["value"]
    return f"{100 * value:.1f} %" if row.percent else f"{value:.4g}" if abs(value) >= 10 else f"{value:.3f}"


def results_table(runs: Sequence[ReportRun]) -> list[Row]:
    """All rows; the baselines of a score follow it."""
    rows: dict[tuple[str, str], Row] = {}
    for run in runs:
        for label, cell, baselines in main_scores(run):
            rows.setdefault((label, label), Row(label, percent=label in PERCENT)).runs[run.name] = cell
            for name, baseline in baselines.items():
                rows.setdefault((label, name), Row(name, baseline=True)).runs[run.name] = baseline
    scores = dict.fromkeys(
        [*LOSSES.values(), *(PROBES.get(score, score) for score in TINYWORLD), *(score for score, _ in rows)]
    )
    order = {score: i for i, score in enumerate(scores)}
    return [rows[key] for key in sorted(rows, key=lambda key: (order[key[0]], rows[key].baseline))]


def main_scores(run: ReportRun) -> Iterator[tuple[str, Cell, dict[str, Cell]]]:
    """(label, cell, baselines) for the losses of a run and the main scores of each result."""
    for term, label in LOSSES.items():
        if (value := run.metrics.get(f"val_{term}_loss")) is not None:
            yield label, {"value": value, "low": None, "high": None}, {}
    for result in run.results:
        tinyworld = result["suite"] == "tinyworld"
        for score in TINYWORLD if tinyworld else list(result["scores"])[:1]:
            if score in result["scores"]:
                label = PROBES.get(score, score) if tinyworld else f"{result['suite']}: {score}"
                yield label, result["scores"][score], baselines_of(result, score)
    for result in run.finetuned:
        score = next(iter(result["scores"]))
        yield f"{result['suite']}, fine-tuned: {score}", result["scores"][score], baselines_of(result, score)


def baselines_of(result: dict[str, Any], score: str) -> dict[str, Cell]:
    """Baselines of a score. tinyworld names them "SCORE, BASELINE"; other suites have them for the first score."""
    if result["suite"] != "tinyworld":
        return result["baselines"] if score == next(iter(result["scores"])) else {}
    return {
        name.removeprefix(f"{score}, "): cell
        for name, cell in result["baselines"].items()
        if name.startswith(f"{score}, ")
    }


def flat_scores(rows: Sequence[Row], run: str) -> dict[str, float]:
    """The column of a run without baselines and intervals, which DVC compares."""
    return {row.score: row.runs[run]["value"] for row in rows if run in row.runs and not row.baseline}


def partial_notes(runs: Sequence[ReportRun]) -> list[str]:
    """A note for each suite that was evaluated on its first items only."""
    results = [result for run in runs for result in (*run.results, *run.finetuned) if result["partial"]]
    return list(dict.fromkeys(f"PARTIAL: {each['suite']} evaluated on {each['n']:,} items" for each in results))


def config_diff(runs: Sequence[ReportRun]) -> list[list[str]]:
    """Rows of the options in which runs differ: name, then the value of each run."""
    keys = dict.fromkeys(key for run in runs for key in run.config if not key.endswith("sha256"))
    rows = {key: [format_option(run.config.get(key)) for run in runs] for key in keys}
    return [[key, *values] for key, values in rows.items() if len(set(values)) > 1]


def format_option(value: Any) -> str:
    """The value of an option as the tables show it."""
    return "-" if value is None else f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)
