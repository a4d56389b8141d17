"""The one table: for each model what it was trained for, how far it is from what can be known, and what it is worth.

Every figure stands in a file that a command wrote; nothing is computed here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bertgpt.reports.runs import ReportRun

TERMS = {
    "clm": "held-out causal loss, nats a token",
    "mlm": "held-out masked loss, nats a hidden token",
}
WORLD = {  # of tinyworld's many scores, those that say most
    "excess": "above the true entropy",
    "accuracy": "hidden words found",
    "share of the oracle": "hidden words found, of those the oracle finds",
    "endings": "endings",
    "pairs": "pairs of sentences",
    "topic": "topic, frozen features",
    "sentiment": "sentiment, frozen features",
    "acceptability": "acceptability, frozen features",
}
SHARES = ("excess", "share of the oracle")  # that people read as percent
Cell = dict[str, Any]  # value, low, high


@dataclass
class Row:
    """A figure of each run that has it, by the name of the run; `baseline`: of the score above."""

    score: str
    baseline: bool = False
    percent: bool = False
    runs: dict[str, Cell] = field(default_factory=dict)


def shown_cell(row: Row, run: str) -> str:
    """As people read it."""
    if run not in row.runs:
        return "-"
    value = row.runs[run]["value"]
    return f"{100 * value:.1f} %" if row.percent else f"{value:.4g}" if abs(value) >= 10 else f"{value:.3f}"


def summary(runs: Sequence[ReportRun]) -> list[Row]:
    """All rows, those of one score together."""
    rows: dict[tuple[str, str], Row] = {}
    for run in runs:
        for score, label, cell, beside, percent in iterate_scores(run):
            row = rows.setdefault((score, label), Row(label, beside, percent))
            row.runs[run.name] = cell
    first = dict.fromkeys([*TERMS.values(), *WORLD.values(), *(score for score, _ in rows)])
    order = {score: i for i, score in enumerate(first)}
    return [rows[key] for key in sorted(rows, key=lambda key: (order[key[0]], rows[key].baseline))]


def iterate_scores(run: ReportRun) -> Iterator[tuple[str, str, Cell, bool, bool]]:
    """The score that a figure belongs to, its label, itself, whether it is a baseline, and whether it is a share."""
    for term, label in TERMS.items():
        if (value := run.figures.get(f"val_{term}_loss")) is not None:
            yield label, label, {"value": value, "low": None, "high": None}, False, False
    for found in run.found:
        for score in WORLD if found["suite"] == "tinyworld" else list(found["scores"])[:1]:
            if score in found["scores"]:
                yield from of_score(found, score, label_of(found, score))
    for found in run.tuned:
        score = next(iter(found["scores"]))
        yield from of_score(found, score, f"{found['suite']}, fine-tuned: {score}")


def figures(run: ReportRun) -> dict[str, float]:
    """The column of a run in the table, for programs: scores by the short names that files have for them."""
    short = {label: f"{term} loss" for term, label in TERMS.items()}
    short |= {label: score for score, label in WORLD.items() if score != "accuracy"}  # of what, nobody would know
    return {
        short.get(label, label): cell["value"] for _, label, cell, baseline, _ in iterate_scores(run) if not baseline
    }


def label_of(found: dict[str, Any], score: str) -> str:
    """What a score is called here."""
    return WORLD[score] if found["suite"] == "tinyworld" else f"{found['suite']}: {score}"


def of_score(found: dict[str, Any], score: str, label: str) -> Iterator[tuple[str, str, Cell, bool, bool]]:
    """A score, and the baselines that belong to it."""
    yield label, label, found["scores"][score], False, score in SHARES
    for name, cell in baselines_of(found, score).items():
        yield label, name, cell, True, False


def baselines_of(found: dict[str, Any], score: str) -> dict[str, Cell]:
    """The baselines of a score, which tinyworld calls by its name; other suites have them for the first score."""
    if found["suite"] != "tinyworld":
        return found["baselines"] if score == next(iter(found["scores"])) else {}
    told = {name: name.removeprefix(f"{score}, ") for name in found["baselines"]}
    return {short: found["baselines"][name] for name, short in told.items() if short != name}


def partial(runs: Sequence[ReportRun]) -> list[str]:
    """Which suites were asked of their first items only."""
    found = [each for run in runs for each in (*run.found, *run.tuned) if each["partial"]]
    return list(dict.fromkeys(f"PARTIAL: {each['suite']} was asked of {each['n']:,} items only" for each in found))


def config_diff(runs: Sequence[ReportRun]) -> list[tuple[str, list[str]]]:
    """The settings in which runs differ."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if not key.endswith("sha256"))
    told = {key: [shown(run.settings.get(key)) for run in runs] for key in keys}
    return [(key, values) for key, values in told.items() if len(set(values)) > 1]


def shown(value: Any) -> str:
    """A setting as people read it."""
    return "-" if value is None else f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)
