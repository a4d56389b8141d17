"""The report: one self-contained HTML file that fetches nothing, rendered from `templates/`."""

import base64
import hashlib
import re
import time
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bertgpt.reports import sections
from bertgpt.reports.charts import tick
from bertgpt.reports.data import DatasetSummary, summarize_dataset
from bertgpt.reports.runs import ReportRun, collect_runs
from bertgpt.reports.samples import generate_samples, masked_predictions
from bertgpt.reports.scores import Row, config_diff, flat_scores, format_cell, partial_notes, results_table
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import write_json, write_text
from bertgpt.utils.version import __version__

SECTIONS = {  # template and title; a section without content is left out
    "results": "Results",
    "curves": "Training curves",
    "evaluations": "Evaluations",
    "predictions": "Masked predictions",
    "samples": "Samples",
    "data": "Training data",
    "config": "Configuration differences",
    "provenance": "Provenance",
}
OPTIONAL = ("predictions", "samples", "data")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def write_report(names: list[str], out: Path, results: Path, metrics_dir: Path | None) -> dict[str, Any]:
    """Write the page, and the scores of each run as JSON; returns the results table."""
    if out.is_dir():
        raise BertGPTError("BG404", "output is a folder", path=str(out), hint="--out names the file to write")
    runs = collect_runs(names, results)
    rows = results_table(runs)
    page = render(runs, rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    if metrics_dir:
        metrics_dir.mkdir(parents=True, exist_ok=True)
        for run in runs:
            write_json(metrics_dir / f"{run.name}.json", flat_scores(rows, run.name))
    table = [vars(row) for row in rows]
    return {"path": str(out), "runs": [run.name for run in runs], "table": table, "notes": partial_notes(runs)}


def render(runs: Sequence[ReportRun], rows: Sequence[Row]) -> str:
    """The page as HTML."""
    datasets = {run.name: data for run in runs if (data := dataset_summary(run))}
    # Runs on a mask plan and on its shards share a dataset: show the summary that has rows of the plan.
    distinct = {str(data.path): data for data in sorted(datasets.values(), key=lambda data: len(data.rows))}
    entropies = [data.true_entropy for data in distinct.values() if data.true_entropy is not None]
    levels = {"true entropy": entropies[0]} if entropies else {}
    texts = {name: data.texts for name, data in datasets.items()}
    content: dict[str, Any] = {
        "runs": runs,
        "rows": rows,
        "notes": partial_notes(runs),
        "axes": sections.curves(runs, levels),
        "suites": sections.evaluations(runs),
        "predictions": {run.name: masked_predictions(run, texts.get(run.name, [])) for run in runs},
        "samples": {run.name: generate_samples(run) for run in runs},
        "data": list(distinct.values()),
        "differences": config_diff(runs),
        "provenance": sections.provenance(runs),
    }
    for key in ("predictions", "samples"):
        content[key] = {name: outputs for name, outputs in content[key].items() if outputs}
    titles = {key: title for key, title in SECTIONS.items() if key not in OPTIONAL or content[key]}
    templates = files("bertgpt.reports") / "templates"
    style, script = (templates.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    created = time.strftime("%F %H:%M UTC", time.gmtime())
    return environment().get_template("page.html.j2").render(
        content, sections=titles, style=style, script=script, script_hash=csp_hash(script), created=created,
        version=__version__,
    )  # fmt: skip


def csp_hash(script: str) -> str:
    """The hash by which a Content-Security-Policy allows this script, and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


@cache
def environment() -> Environment:
    """Jinja2 with autoescape: nothing that comes from runs becomes markup."""
    templates = Environment(
        loader=PackageLoader("bertgpt.reports"), autoescape=True, undefined=StrictUndefined, finalize=printable,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.filters |= {
        "cell": format_cell, "score": sections.format_score, "tick": tick, "candidates": sections.candidate_rows,
    }  # fmt: skip
    return templates


def printable(value: Any) -> Any:
    """Text with control characters and direction overrides spelled out; Jinja2 calls this before it escapes."""
    if hasattr(value, "__html__"):  # rendered by a template
        return value
    return CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), str(value))


def dataset_summary(run: ReportRun) -> DatasetSummary | None:
    """Summary of the training data of a run; None if it is gone or corrupt."""
    name = run.metadata.get("options", {}).get("data")
    if not name or not ((folder := Path(name)) / "manifest.json").is_file():
        return None
    try:
        return summarize_dataset(folder)
    except BertGPTError as error:
        console.info(f"{folder}: {error}; training data is not reported")
        return None
