"""Contents of the report's larger sections, ready for the templates."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bertgpt.reports.charts import Chart, Scale, Series
from bertgpt.reports.runs import ReportRun
from bertgpt.reports.scores import PROBES, Cell, baselines_of

AXES = {"tokens": "tokens", "time": "seconds of training", "FLOPs": "FLOPs"}
TERMS = {"clm": "CLM", "mlm": "MLM", "nsp": "NSP"}
RUN_METADATA = ("started", "bertgpt", "torch", "python", "host", "device", "precision", "threads", "world_size")


@dataclass(frozen=True)
class ScoreRow:
    """One score of one run; `name` is empty if the row above has the same score."""

    name: str
    run: str
    cell: Cell
    baseline: bool
    scale: Scale  # of the plot of the interval


@dataclass(frozen=True)
class Suite:
    """The scores of all runs in one suite."""

    name: str
    result: dict[str, Any]  # of the first run
    partial: bool
    rows: list[ScoreRow]
    notes: list[str]


def curves(runs: Sequence[ReportRun], levels: dict[str, float]) -> dict[str, list[Chart]]:
    """Loss curves by axis, one chart for each term of the loss; training loss is drawn faintly."""
    axes = {}
    for axis, unit in AXES.items():
        charts = []
        for term, title in TERMS.items():
            series = [
                Series(f"{run.name}, {split}", run.points(split, f"{term}_loss", axis), i, faint=split == "train")
                for i, run in enumerate(runs)
                for split in ("train", "val")
            ]
            charts.append(Chart(title, unit, "loss in nats", series, levels if term == "clm" else {}))
        axes[axis] = [chart for chart in charts if chart.nonempty]
    return {axis: charts for axis, charts in axes.items() if charts}


def evaluations(runs: Sequence[ReportRun]) -> list[Suite]:
    """Every score of every suite, run beside run, with its interval and its baselines."""
    suites: dict[str, dict[str, dict[str, Any]]] = {}
    for run in runs:
        for result in run.results:
            suites.setdefault(result["suite"], {})[run.name] = result
        for result in run.finetuned:
            suites.setdefault(f"{result['suite']}, fine-tuned", {})[run.name] = result
    return [suite(name, results) for name, results in suites.items()]


def suite(name: str, results: dict[str, dict[str, Any]]) -> Suite:
    """The table of a suite, from its result for each run."""
    scores = merged(result["scores"] for result in results.values())
    return Suite(
        name=name,
        result=next(iter(results.values())),
        partial=any(result["partial"] for result in results.values()),
        rows=[row for score in scores for row in score_rows(results, score)],
        notes=list(dict.fromkeys(f"{run}: {note}" for run, result in results.items() for note in result["notes"])),
    )


def score_rows(results: dict[str, dict[str, Any]], score: str) -> Iterator[ScoreRow]:
    """The rows of a score, then those of its baselines."""
    having = {run: result for run, result in results.items() if score in result["scores"]}
    cells = {run: result["scores"][score] for run, result in having.items()}
    yield from comparison(PROBES.get(score, score), cells, False)
    baselines = {run: baselines_of(result, score) for run, result in having.items()}
    for name in merged(baselines.values()):
        yield from comparison(name, {run: cells[name] for run, cells in baselines.items() if name in cells}, True)


def comparison(name: str, cells: dict[str, Cell], baseline: bool) -> Iterator[ScoreRow]:
    """A row for each run, all on one scale: 0 to 1, or wider if values need it."""
    values = [value for cell in cells.values() for value in cell.values() if value is not None]
    scale = Scale(min(0.0, *values), max(1.0, *values))
    for i, (run, cell) in enumerate(cells.items()):
        yield ScoreRow(name if i == 0 else "", run, cell, baseline, scale)


def merged(tables: Iterable[dict[str, Any]]) -> list[str]:
    """The keys of several dicts in order of first appearance."""
    return list(dict.fromkeys(key for table in tables for key in table))


def candidate_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """For each masked token: number, outcome, and the most likely tokens."""
    return [
        (
            str(i),
            "correct" if mask["correct"] else "wrong",
            ", ".join(f"{c['token_str'].strip() or repr(c['token_str'])} {c['score']:.2f}" for c in mask["candidates"]),
        )
        for i, mask in enumerate(result["masks"], 1)
    ]


def format_score(value: float) -> str:
    """A score with four decimals; large values as integers."""
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"


def provenance(runs: Sequence[ReportRun]) -> dict[str, list[str]]:
    """Time, versions and machine of each run, and the hashes of its weights and data."""
    rows = {key: [str(run.metadata.get(key, "-")) for run in runs] for key in RUN_METADATA}
    return rows | {
        "weights SHA-256": [run.weights_hash for run in runs],
        "tokenizer fingerprint": [run.pretrained.tokenizer.fingerprint for run in runs],
        "data SHA-256": [str(run.config.get("data_sha256", "-")) for run in runs],
    }
