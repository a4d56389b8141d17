"""`bertgpt eval`: scores of a model with intervals and baselines, and the predictions of every item."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertgpt.config.options import EvalOptions
from bertgpt.utils import console as console_module
from bertgpt.utils.console import Console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.json_files import parse_json
from bertgpt.utils.tables import format_interval, show_scores

if TYPE_CHECKING:
    from bertgpt.hub.pretrained import PretrainedModel

ALL_SUITES = {  # what `all` means for each objective
    "clm": ("lm", "tinyworld", "hellaswag", "lambada", "blimp", "agnews"),
    "mlm": ("mlm", "tinyworld", "blimp", "agnews"),
    "hybrid": ("lm", "mlm", "tinyworld", "hellaswag", "lambada", "blimp", "agnews"),
}


def run(options: EvalOptions) -> dict[str, Any]:
    """Score a model on a suite or on all, write predictions for a file, or compare two folders of results."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BertGPTError("BG223", "eval runs in a single process", hint="run it without torchrun")
    if options.suite == "compare":
        if len(options.folders) != 2:
            raise BertGPTError("BG203", "compare takes two folders of results", hint="bertgpt eval compare A B")
        from bertgpt.evals.compare import compare_results

        return {"comparisons": compare_results(Path(options.folders[0]), Path(options.folders[1]))}
    if options.folders:
        raise BertGPTError("BG203", f"eval {options.suite} takes no folders", hint="--model names the model to score")
    if options.model is None:
        from bertgpt.inference.load import missing_model_error

        raise missing_model_error(f"eval {options.suite}")
    from bertgpt.inference.language_model import load
    from bertgpt.inference.load import load_model, weights_hash

    pretrained = load(options.model, options.device, options.precision, options.prefix_token).pretrained
    if options.suite == "predict":
        from bertgpt.evals.labels import predict

        return predict(pretrained, options)
    metadata = {
        "weights": weights_hash(load_model(options.model)[1]), "tokenizer": pretrained.tokenizer.fingerprint,
        "precision": options.precision,
    }  # fmt: skip
    folder = Path(options.out) if options.out else Path("results") / run_name(options.model)
    suites = ALL_SUITES[pretrained.objective] if options.suite == "all" else (options.suite,)
    results = [evaluate_and_save(pretrained, suite, options, folder, metadata) for suite in suites]
    return {"path": str(folder), "model": options.model, "results": results}


def evaluate_and_save(
    pretrained: "PretrainedModel", suite: str, options: EvalOptions, folder: Path, metadata: dict[str, Any]
) -> dict[str, Any]:
    """Evaluate one suite and write its files."""
    from bertgpt.evals.suites import evaluate_suite

    started = time.time()
    if options.suite == "all":
        console_module.info(f"{suite} ...")
    data = "tinyworld" if suite in ("lm", "mlm") and options.suite == "all" else options.data
    result = evaluate_suite(pretrained, suite, options.model_copy(update={"data": data}))
    result.metadata |= metadata
    file = folder / f"{suite}.json"
    if (previous := weights_of_result(file)) and previous != metadata["weights"]:
        console_module.info(f"overwriting {file}: scores of different weights; use --out for another folder")
    result.save(folder, started)
    return result.as_json()


def weights_of_result(file: Path) -> str | None:
    """The hash of the weights that an existing result is of."""
    try:
        return str(parse_json(file.read_text(encoding="utf-8"))["metadata"]["weights"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def run_name(model: str) -> str:
    """The name of the run that a path is in: runs/gpt, runs/gpt/final and runs/gpt/checkpoints/step-100 are of gpt."""
    path = Path(model)
    if path.name == "final":
        return path.parent.name
    return path.parent.parent.name if path.parent.name == "checkpoints" else path.name


def show(result: dict[str, Any], console: Console) -> None:
    """Print tables of scores, of comparisons, or the number of predicted labels."""
    if "predicted" in result:
        counts = ", ".join(f"{name} {count:,}" for name, count in result["labels"].items())
        console.text(f"{result['predicted']:,} labels in {result['path']}: {counts}")
        return
    if "comparisons" in result:
        show_comparisons(result["comparisons"], console)
        return
    for number, suite_result in enumerate(result["results"]):
        if number:
            console.text()
        show_scores(suite_result, console)
    console.text()
    console.text(f"predictions of every item in {result['path']}")


def show_comparisons(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the differences between two models."""
    cells = [
        [row["suite"], *([""] * 6), row["verdict"]] if row["score"] is None else
        [row["suite"], row["score"], f"{row['a']:.4g}", f"{row['b']:.4g}", f"{row['difference']:+.4g}",
         format_interval(row), f"{row['p']:.2g}", row["verdict"]]
        for row in rows
    ]  # fmt: skip
    console.table(("suite", "score", "A", "B", "B - A", "95% interval", "p-value", "verdict"), cells)
