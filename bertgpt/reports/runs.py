"""What there is to report: runs, and what evaluations found of them. Results of other weights are left out, and said.

A run that was fine-tuned belongs to the one whose weights it began with.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.load import load_model, weights_hash
from bertgpt.training.logger import TIMING_KEYS, JsonlLogger
from bertgpt.training.run_directory import read_config
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError


@dataclass
class ReportRun:
    """A model, and all that was written down of it."""

    path: Path
    kept: PretrainedModel
    weights: str  # their hash
    settings: dict[str, Any]  # of config.yaml, flat
    facts: dict[str, Any]  # of run.json
    figures: dict[str, Any]  # of metrics.json
    lines: list[dict[str, Any]]  # of metrics.jsonl
    found: list[dict[str, Any]] = field(default_factory=list)  # by suites, of these weights
    tuned: list[dict[str, Any]] = field(default_factory=list)  # by what began with these weights

    @property
    def name(self) -> str:
        """What people call it."""
        return self.path.parent.name if self.path.name == "final" else self.path.name

    @property
    def shape(self) -> str:
        """What it looks like."""
        config = self.kept.model.config
        return f"d{config.dim} L{config.layers} H{config.heads}"

    def points(self, split: str, figure: str, axis: str) -> list[tuple[float, float]]:
        """A figure of its lines, over tokens, seconds of training or FLOPs; nothing where that is not known."""
        per_step = self.facts.get("flops_per_step", 0.0)
        found, seconds = [], 0.0
        for line in self.lines:
            seconds += line.get(TIMING_KEYS[0], 0.0) if line["split"] == "train" else 0.0
            x = {"tokens": line["tokens"], "time": seconds, "FLOPs": line["step"] * per_step}[axis]
            if line["split"] == split and line.get(figure) is not None and (x or not line["step"]):
                found.append((float(x), float(line[figure])))
        return found


def collect_runs(names: list[str], results: Path) -> list[ReportRun]:
    """The runs of these names, or all in runs/; those that were fine-tuned are put to what they began with."""
    names = names or [str(path.parent) for path in sorted(Path("runs").glob("*/final"))]
    if not names:
        raise BertGPTError("BG203", "there is no run to report", hint="bertgpt pretrain makes one")
    tuned = [read_json(file) for name in names for file in results_in(Path(name))]
    runs = [read_run(name) for name in names if not results_in(Path(name))]
    if not runs:
        raise BertGPTError("BG203", "these runs were fine-tuned", hint="give the run that they began with too")
    by_weights = {run.weights: run for run in runs}
    for found in tuned:
        begun_with = by_weights.get(found["facts"].get("pretrained"))
        if begun_with is None:
            console.note(f"{found['suite']}: the run that this began with is not reported, so it is left out")
        else:
            begun_with.tuned.append(found)
    for run in runs:
        for file in results_in(results / run.name):
            found = read_json(file)
            if found["facts"].get("weights") == run.weights:
                run.found.append(found)
            else:
                console.note(f"{file}: found of other weights than those in {run.path}, so it is left out")
    return runs


def read_run(name: str) -> ReportRun:
    """One of them; a model without a run has no curve."""
    kept, folder = load_model(name)
    path = Path(name)
    run = path.parent if path.name == "final" else path
    settings = read_config(run) if (run / "config.yaml").is_file() and run != folder else {}
    return ReportRun(
        path=run,
        kept=kept,
        weights=weights_hash(folder),
        settings=flat(settings),
        facts=read_json(run / "run.json"),
        figures=read_json(run / "metrics.json"),
        lines=JsonlLogger(run / "metrics.jsonl").read(),
    )


def results_in(folder: Path) -> list[Path]:
    """What suites found, in a folder of results or of a fine-tuned run."""
    files = sorted(folder.glob("*.items.parquet")) if folder.is_dir() else []
    told = [file.with_name(file.name.replace(".items.parquet", ".json")) for file in files]
    return [file for file in told if file.is_file()]


def read_json(file: Path) -> dict[str, Any]:
    """An object of a file; none if there is no file."""
    if not file.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BertGPTError("BG313", "this is no JSON", path=str(file), cause=str(error)) from None
    return found


def flat(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Settings inside of settings as a.b."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return found


def data_of(run: ReportRun) -> Path | None:
    """The shards or the plan that it was trained on, if they are still here."""
    name = run.facts.get("options", {}).get("data")
    return Path(name) if name and (Path(name) / "manifest.json").is_file() else None
