"""`bertgpt eval`: scores with their intervals, baselines, and every item."""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertgpt.config.options import EvalOptions
from bertgpt.stages.generate import missing_model_error
from bertgpt.utils import console as console_module
from bertgpt.utils.console import Console
from bertgpt.utils.errors import BertGPTError

if TYPE_CHECKING:
    from bertgpt.hub.pretrained import PretrainedModel

FOR = {  # what `all` asks of each kind of model
    "clm": ("lm", "tinyworld", "hellaswag", "lambada", "blimp", "agnews"),
    "mlm": ("mlm", "tinyworld", "blimp", "agnews"),
    "hybrid": ("lm", "mlm", "tinyworld", "hellaswag", "lambada", "blimp", "agnews"),
}


def run(options: EvalOptions) -> dict[str, Any]:
    """Do it."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BertGPTError("BG223", "eval runs in one process", hint="leave out torchrun")
    if options.suite == "compare":
        if len(options.folders) != 2:
            raise BertGPTError("BG203", "compare takes two folders of results", hint="bertgpt eval compare A B")
        from bertgpt.evals.compare import compare_results

        return {"compared": compare_results(Path(options.folders[0]), Path(options.folders[1]))}
    if options.folders:
        raise BertGPTError("BG203", f"eval {options.suite} takes no folders", hint="--model names what is scored")
    if options.model is None:
        raise missing_model_error(f"eval {options.suite}")
    from bertgpt.inference.language_model import load
    from bertgpt.inference.load import load_model, weights_hash

    kept = load(options.model, options.device, options.precision).pretrained
    if options.suite == "predict":
        from bertgpt.evals.labels import predict

        return predict(kept, options)
    facts = {"weights": weights_hash(load_model(options.model)[1]), "tokenizer": kept.tokenizer.fingerprint}
    folder = Path(options.out) if options.out else Path("results") / name_of(options.model)
    suites = FOR[kept.objective] if options.suite == "all" else (options.suite,)
    return {
        "path": str(folder),
        "model": options.model,
        "found": [one(kept, s, options, folder, facts) for s in suites],
    }


def one(
    kept: "PretrainedModel", suite: str, options: EvalOptions, folder: Path, facts: dict[str, Any]
) -> dict[str, Any]:
    """One suite, and its files."""
    from bertgpt.evals.suites import evaluate_suite

    began = time.time()
    if options.suite == "all":
        console_module.note(f"{suite} ...")
    data = "tinyworld" if suite in ("lm", "mlm") and options.suite == "all" else options.data
    found = evaluate_suite(kept, suite, options.model_copy(update={"data": data}))
    found.metadata |= facts | {"precision": options.precision}
    if (before := weights_in(folder / f"{suite}.json")) and before != facts["weights"]:
        console_module.note(f"{folder / suite}.json was of other weights, and is replaced; --out takes another folder")
    found.save(folder, began)
    return found.as_json()


def weights_in(result: Path) -> str | None:
    """Of which model a result is, if there is one."""
    try:
        return str(json.loads(result.read_text(encoding="utf-8"))["facts"]["weights"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def name_of(model: str) -> str:
    """The run that a model is of."""
    path = Path(model)
    inside = path.name == "final" or path.parent.name == "checkpoints"
    return (path.parent.name if path.name == "final" else path.parent.parent.name) if inside else path.name


def show(result: dict[str, Any], console: Console) -> None:
    """Tables."""
    if "predicted" in result:
        console.text(f"{result['predicted']:,} labels in {result['path']}: " + counted(result["labels"]))
        return
    if "compared" in result:
        show_compared(result["compared"], console)
        return
    for number, found in enumerate(result["found"]):
        if number:
            console.text()
        show_found(found, console)
    console.text()
    console.text(f"every item in {result['path']}")


def show_found(found: dict[str, Any], console: Console) -> None:
    """One suite."""
    partial = "PARTIAL, " if found["partial"] else ""
    console.heading(f"{found['suite']} · {partial}{found['n']:,} items · {found['definition']}")
    rows = [[name, shown(score), interval(score), ""] for name, score in found["scores"].items()]
    rows += [[name, shown(score), interval(score), "baseline"] for name, score in found["baselines"].items()]
    console.table(("", "score", "95 %", ""), rows)
    for note in found["notes"]:
        console.text(note)


def show_compared(found: list[dict[str, Any]], console: Console) -> None:
    """Differences."""
    rows = [
        [each["suite"], each["score"], f"{each['a']:.4g}", f"{each['b']:.4g}", f"{each['difference']:+.4g}",
         interval(each), f"{each['p']:.2g}", each["verdict"]]
        for each in found
    ]  # fmt: skip
    console.table(("suite", "score", "A", "B", "B - A", "95 %", "p", ""), rows)


def counted(labels: dict[str, int]) -> str:
    """How often each was said."""
    return ", ".join(f"{name} {count:,}" for name, count in labels.items())


def shown(score: dict[str, Any]) -> str:
    """A score as people read it."""
    value = score["value"]
    if abs(value) < 1000:
        return f"{value:.4f}"
    return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.2e}"


def interval(score: dict[str, Any]) -> str:
    """How far it may be off."""
    if score["low"] is None:
        return ""
    return " to ".join(shown({"value": score[end]}) for end in ("low", "high"))
