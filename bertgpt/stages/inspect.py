"""`bertgpt inspect`: describe a folder that a command wrote, or tinyworld."""

import math
import os
from pathlib import Path
from typing import Any

from bertgpt.config.options import InspectOptions
from bertgpt.utils.console import Console
from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr
from bertgpt.utils.tables import format_number

# Names of artifact kinds; the others are named as stored: shards, model.
KINDS = {"tokens": "tokenized files", "mask_plan": "mask plan", "bin": "flat token files", "hf": "transformers model"}


def run(options: InspectOptions) -> dict[str, Any]:
    """Describe an artifact, one document or row of it, tinyworld, or the contamination of shards."""
    if options.contamination is not None:
        return check_contamination(options, options.contamination)
    if os.path.isdir(options.path):  # noqa: PTH112 - a Path of an impossible name raises
        from bertgpt.data.format import resolve_artifact
        from bertgpt.data.loading.describe import describe_artifact

        folder = resolve_artifact(Path(options.path))
        return describe_artifact(folder, options.doc, options.verify, options.split, options.start, options.docs)
    if options.path != "tinyworld":
        raise BertGPTError(
            "BG210",
            f"no such folder: {short_repr(options.path)}",
            hint=did_you_mean(options.path, ["tinyworld"]) or "give a folder that a command wrote, or tinyworld",
        )
    from bertgpt.tinyworld import describe_world

    if options.split in ("val", "test"):
        raise BertGPTError(
            "BG204", f"no such split: {options.split}", hint="the splits of tinyworld tasks are train and dev"
        )
    return describe_world(options.seed, options.start, options.docs, options.task, options.split or "dev")


def check_contamination(options: InspectOptions, suite: str) -> dict[str, Any]:
    """Find the items of a suite that share a 13-gram with the training text of shards."""
    from bertgpt.config.options import EvalOptions
    from bertgpt.evals.contamination import find_contaminated
    from bertgpt.evals.suites import contamination_texts

    if suite in ("probe", "cloze") and options.data is None:
        raise BertGPTError("BG203", "--data is missing", hint=f"give the file that you give to eval {suite}")
    eval_options = EvalOptions.model_validate({"suite": suite, "data": options.data})
    result = find_contaminated(Path(options.path), contamination_texts(suite, eval_options))
    return {"kind": "contamination", "path": options.path, "suite": suite} | result


def show(result: dict[str, Any], console: Console) -> None:
    """Print the description."""
    if result["kind"] == "contamination":
        count, items = result["contaminated"], result["items"]
        console.text(f"{count:,} of {items:,} items of {result['suite']} ({count / items:.2%}) share a 13-gram")
        console.text(f"with {result['path']}; {result['too_short']:,} items are too short to check")
    elif result["kind"] == "tinyworld":
        show_world(result, console)
    elif "document" in result:
        show_document(result["document"], console)
    else:
        if "files" in result:
            show_folder(result, console)
        if "rows" in result:
            show_rows(result["rows"], console)


def show_folder(result: dict[str, Any], console: Console) -> None:
    """The files, counts and configuration of an artifact."""
    roles = ", ".join(f"{role} {i}" for role, i in result["tokenizer"]["roles"].items())
    console.heading(
        f"{KINDS.get(result['kind'], result['kind'])} in {result['path']} "
        f"({result['dtype']}, largest id {result['tokenizer']['max_id']:,}, special ids: {roles})"
    )
    keys = [key for key in ("documents", "rows", "tokens", "text_bytes", "bytes") if key in result["files"][0]]
    columns = ("file", *(key.replace("_", " ") for key in keys), "sha256")
    rows = ([f["path"], *(format_number(f.get(key, "")) for key in keys), f["sha256"][:12]] for f in result["files"])
    console.table(columns, rows)
    console.text()
    if "card" in result:
        console.text(result["card"])
    if result.get("lengths"):
        console.text("tokens per document: " + ", ".join(f"{name} {n:,}" for name, n in result["lengths"].items()))
    console.text(
        "counts: " + ", ".join(f"{name.replace('_', ' ')} {format_number(n)}" for name, n in result["counts"].items())
    )
    if "sources" in result:
        console.text("sources: " + ", ".join(source["name"] for source in result["sources"]))
    if result["kind"] == "mask_plan":
        config = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result["config"].items())
        console.text(f"mask plan: {config.replace(result['config']['parent'], result['config']['parent'][:12])}")
    console.text(f"verified: {result['verified']}")


def show_rows(rows: list[dict[str, Any]], console: Console) -> None:
    """Rows of a mask plan, with their masked tokens marked."""
    for row in rows:
        next_sentence = "".join(f", {label}" for label in row["next_sentence"] if label)
        console.text()
        console.heading(
            f"row {row['number']} of {row['split']} · {row['length']} tokens in {row['num_segments']} "
            f"{'segment' if row['num_segments'] == 1 else 'segments'}{next_sentence} · "
            f"{row['num_targets']} masked"
        )
        console.inline_styled([styled_span(span) for span in row["spans"]])
    if rows:
        console.text()
        console.text(
            "{token}: replaced by [MASK]; {token>other}: replaced by a random token; {token=}: kept, and predicted too"
        )


def styled_span(span: dict[str, str]) -> tuple[str, str]:
    """A span of a row, and its color."""
    text = span["text"]
    if "masked" not in span:
        return text, ""
    space = " " if text.startswith(" ") else ""
    text = text.replace("\n", "\\n")
    end = {"mask": "", "kept": "=", "random": f">{span.get('replacement', '').strip(' ')}"}[span["masked"]]
    color = {"mask": "yellow", "kept": "green", "random": "magenta"}[span["masked"]]
    return f"{space}{{{text.strip(' ')}{end}}}", color


def show_document(document: dict[str, Any], console: Console) -> None:
    """A document as text, and split into tokens."""
    console.heading(
        f"document {document['number']} · row {document['row']} of {document['file']} · {document['tokens']} tokens"
    )
    console.text(document["text"])
    console.text()
    console.text("|".join(token.replace("\n", "\\n") for token in document["token_strings"]))


def show_world(result: dict[str, Any], console: Console) -> None:
    """Documents of tinyworld, or examples of a task."""
    for example in result.get("examples", ()):
        console.heading(f"{result['task']} · {result['split']} · from document {example['document']}")
        for name, value in example.items():
            for line in value if isinstance(value, list) else [value]:
                if name != "document" and line is not None:
                    console.text(f"{name:>9}  {line}")
        console.text()
    for document in result.get("documents", ()):
        mood = f"{document['mood']} mood, " if document["mood"] else ""
        per_byte = document["nats"] / math.log(2) / document["bytes"]
        console.heading(
            f"document {document['index']} · {document['topic']} {document['genre']} · "
            f"{mood}{document['words']} words, {document['nats']:.1f} nats ({per_byte:.2f} bits per byte)"
        )
        console.text(document["text"])
        console.text()
