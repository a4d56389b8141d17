"""Collects what the report shows: runs, and the evaluation results of their weights.

Results of other weights are skipped with a note. A fine-tuned run is reported with the run whose weights it started
from.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.load import load_model, weights_hash
from bertgpt.training.logger import TIMING_KEYS, JsonlLogger
from bertgpt.training.run_directory import read_config
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.json_files import read_json_object


@dataclass
class ReportRun:
    """A model and everything that commands recorded about it."""

    path: Path
    pretrained: PretrainedModel
    weights_hash: str
    config: dict[str, Any]  # config.yaml, flattened
    metadata: dict[str, Any]  # run.json
    metrics: dict[str, Any]  # metrics.json
    history: list[dict[str, Any]]  # metrics.jsonl
    results: list[dict[str, Any]] = field(default_factory=list)  # of `bertgpt eval` for these weights
    finetuned: list[dict[str, Any]] = field(default_factory=list)  # results of runs fine-tuned from these weights

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.path.parent.name if self.path.name == "final" else self.path.name

    def points(self, split: str, metric: str, axis: str) -> list[tuple[float, float]]:
        """A metric of a split over tokens, seconds of training or FLOPs; empty where the axis is unknown."""
        flops_per_step = self.metadata.get("flops_per_step", 0.0)
        points, seconds = [], 0.0
        for line in self.history:
            seconds += line.get(TIMING_KEYS[0], 0.0) if line["split"] == "train" else 0.0
            x = {"tokens": line["tokens"], "time": seconds, "FLOPs": line["step"] * flops_per_step}[axis]
            if line["split"] == split and line.get(metric) is not None and (x or not line["step"]):
                points.append((float(x), float(line[metric])))
        return points


def collect_runs(names: list[str], results: Path) -> list[ReportRun]:
    """The named runs, or all in runs/, with their results. Fine-tuned runs are added to the run they started from."""
    names = names or [str(path.parent) for path in sorted(Path("runs").glob("*/final"))]
    if not names:
        raise BertGPTError("BG203", "no run to report", hint="bertgpt pretrain makes one")
    finetuned = [read_json(file) for name in names for file in result_files(Path(name))]
    runs = [read_run(name) for name in names if not result_files(Path(name))]
    if not runs:
        raise BertGPTError("BG203", "only fine-tuned runs to report", hint="add the run that they started from")
    by_hash = {run.weights_hash: run for run in runs}
    for result in finetuned:
        if (run := by_hash.get(result["metadata"].get("pretrained"))) is not None:
            run.finetuned.append(result)
        else:
            console.info(f"{result['suite']}: the run that it was fine-tuned from is not in this report; skipped")
    for run in runs:
        for file in result_files(results / run.name):
            result = read_json(file)
            if result["metadata"].get("weights") == run.weights_hash:
                run.results.append(result)
            else:
                console.info(f"{file}: scores of different weights than {run.path}; skipped")
    return runs


def read_run(name: str) -> ReportRun:
    """Read a run, or a model without a run, which has no training curve."""
    pretrained, folder = load_model(name)
    path = Path(name)
    run = path.parent if path.name == "final" else path
    config = read_config(run) if (run / "config.yaml").is_file() and run != folder else {}
    return ReportRun(
        path=run,
        pretrained=pretrained,
        weights_hash=weights_hash(folder),
        config=flatten(config),
        metadata=read_json(run / "run.json"),
        metrics=read_json(run / "metrics.json"),
        history=JsonlLogger(run / "metrics.jsonl").read(),
    )


def result_files(folder: Path) -> list[Path]:
    """Evaluation results in a folder of results or of a fine-tuned run."""
    items = sorted(folder.glob("*.items.parquet")) if folder.is_dir() else []
    files = [file.with_name(file.name.replace(".items.parquet", ".json")) for file in items]
    return [file for file in files if file.is_file()]


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no file."""
    if not file.is_file():
        return {}
    return read_json_object(file, "BG313", "a file of this run or its results")


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as {"a.b": value}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
