"""The page: everything about some runs in one file that fetches nothing."""

import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from bertgpt.reports import samples, scores, sections
from bertgpt.reports.data import DatasetSummary, summarize_dataset
from bertgpt.reports.markup import Html, el, escaped, joined
from bertgpt.reports.runs import ReportRun, collect_runs, data_of
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import discard_result, disk_error, write_atomic, write_json
from bertgpt.utils.version import __version__

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # nothing can be fetched


def report(names: list[str], out: Path, results: Path, figures: Path | None) -> dict[str, Any]:
    """Write it, and say what the table in it says."""
    if out.is_dir():
        raise BertGPTError("BG404", "this is a folder", path=str(out), hint="--out names the file to write")
    runs = collect_runs(names, results)
    rows = scores.summary(runs)
    text = page(runs, rows)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, lambda aside: discard_result(aside.write_text(text, encoding="utf-8")))
        if figures:
            figures.mkdir(parents=True, exist_ok=True)
            for run in runs:
                write_json(figures / f"{run.name}.json", scores.figures(run))
    except OSError as error:
        raise disk_error(error, out) from None
    names, table = [run.name for run in runs], [vars(row) for row in rows]
    return {"path": str(out), "runs": names, "table": table, "notes": scores.partial(runs)}


def page(runs: Sequence[ReportRun], rows: Sequence[scores.Row]) -> str:
    """All of it."""
    trained_on = {run.name: found for run in runs if (found := looked_at(run)) is not None}
    by_rows = sorted(trained_on.values(), key=lambda found: len(found.rows))  # those with a plan say more
    distinct = {str(found.path): found for found in by_rows}
    known = [found.floor for found in distinct.values() if found.floor is not None]
    floors = dict(zip(["the true entropy"], known, strict=False))  # all that is known is of one world
    titled: list[tuple[str, str, Html]] = [
        ("summary", "What came of it", sections.summary(runs, rows)),
        ("curves", "How they learned", sections.curves(runs, floors)),
        ("evaluations", "What they are worth", sections.evaluations(runs)),
        ("predictions", "Hidden words", joined(predicted(runs, trained_on))),
        ("samples", "What they write", joined(sampled(runs))),
        ("data", "What they read", joined(sections.data(found) for found in distinct.values())),
        ("settings", "In what they differ", sections.settings(runs)),
        ("origins", "Where they come from", sections.origins(runs)),
    ]
    titled = [(name, title, content) for name, title, content in titled if content]
    links = [el("li", el("a", title, href=f"#{name}")) for name, title, _ in titled]
    made = f"Made by bertgpt {__version__} on {time.strftime('%F %H:%M UTC', time.gmtime())}."
    body = joined([
        el("header", el("h1", ", ".join(run.name for run in runs)), el("p", made), sections.run_cards(runs)),
        el("nav", el("ul", *links), aria_label="parts of this page"),
        *(el("section", el("h2", title), content, id=name) for name, title, content in titled),
    ])  # fmt: skip
    style, script = (files("bertgpt.reports").joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    title = escaped("bertgpt: " + ", ".join(run.name for run in runs))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n{body}\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def looked_at(run: ReportRun) -> DatasetSummary | None:
    """What it was trained on; a run whose data is gone is reported without it."""
    if (folder := data_of(run)) is None:
        return None
    try:
        return summarize_dataset(folder)
    except BertGPTError as error:
        console.note(f"{folder}: {error}; the report goes on without it")
        return None


def predicted(runs: Sequence[ReportRun], trained_on: dict[str, DatasetSummary]) -> list[Html]:
    """Of each model that fills gaps."""
    found = []
    for run in runs:
        texts = trained_on[run.name].texts if run.name in trained_on else []
        if quizzes := samples.masked_predictions(run, texts):
            found.append(sections.predictions(run.name, quizzes))
    return found


def sampled(runs: Sequence[ReportRun]) -> list[Html]:
    """Of each model that goes on with text."""
    return [sections.samples(run.name, texts) for run in runs if (texts := samples.generate_samples(run))]
