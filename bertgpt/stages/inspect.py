"""`bertgpt inspect`: look into any artefact."""

import math
import os
from pathlib import Path
from typing import Any

from bertgpt.config.options import InspectOptions
from bertgpt.utils.console import Console
from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr
from bertgpt.utils.tables import format_number


def run(options: InspectOptions) -> dict[str, Any]:
    """What there is to see."""
    if options.contamination is not None:
        return against(options, options.contamination)
    if os.path.isdir(options.path):  # noqa: PTH112 - a Path of an impossible name raises
        from bertgpt.data.format import resolve_artifact
        from bertgpt.data.loading.describe import describe_artifact as look_into

        return look_into(
            resolve_artifact(Path(options.path)),
            options.doc,
            options.verify,
            options.split,
            options.start,
            options.docs,
        )
    if options.path != "tinyworld":
        raise BertGPTError(
            "BG210",
            f"there is nothing called {short_repr(options.path)} to look into",
            hint=did_you_mean(options.path, ["tinyworld"]) or "give a folder that a command made, or tinyworld",
        )
    from bertgpt.tinyworld import describe_world

    if options.split in ("val", "test"):
        raise BertGPTError("BG204", f"the examples of tinyworld are train and dev, not {options.split}")
    return describe_world(options.seed, options.start, options.docs, options.task, options.split or "dev")


def against(options: InspectOptions, suite: str) -> dict[str, Any]:
    """Which items of an evaluation are in a training text."""
    from bertgpt.config.options import EvalOptions
    from bertgpt.evals.contamination import find_contaminated
    from bertgpt.evals.suites import contamination_texts

    if suite in ("probe", "cloze") and options.data is None:
        raise BertGPTError("BG203", "--data is missing", hint=f"the file that eval {suite} is given")
    eval_options = EvalOptions.model_validate({"suite": suite, "data": options.data})
    result = find_contaminated(Path(options.path), contamination_texts(suite, eval_options))
    return {"kind": "contamination", "path": options.path, "suite": suite} | result


def show(result: dict[str, Any], console: Console) -> None:
    """Print it for people."""
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
    """What an artefact holds."""
    roles = ", ".join(f"{role} {i}" for role, i in result["tokenizer"]["roles"].items())
    console.heading(
        f"{result['kind']} in {result['path']} ({result['dtype']}, ids to {result['tokenizer']['max_id']:,}: {roles})"
    )
    keys = [key for key in ("documents", "rows", "tokens", "text_bytes", "bytes") if key in result["files"][0]]
    columns = ("file", *(key.replace("_", " ") for key in keys), "sha256")
    rows = ([f["path"], *(format_number(f.get(key, "")) for key in keys), f["sha256"][:12]] for f in result["files"])
    console.table(columns, rows)
    console.text()
    if "card" in result:
        console.text(result["card"])
    if result.get("lengths"):
        console.text("tokens in a document: " + ", ".join(f"{name} {n:,}" for name, n in result["lengths"].items()))
    console.text(
        "counts: " + ", ".join(f"{name.replace('_', ' ')} {format_number(n)}" for name, n in result["counts"].items())
    )
    if "sources" in result:
        console.text("sources: " + ", ".join(source["name"] for source in result["sources"]))
    if result["kind"] == "plan":
        config = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result["config"].items())
        console.text(f"plan: {config.replace(result['config']['parent'], result['config']['parent'][:12])}")
    console.text(f"verified: {result['verified']}")


def show_rows(rows: list[dict[str, Any]], console: Console) -> None:
    """Rows of a plan with what is hidden in them."""
    for row in rows:
        next_sentence = "".join(f", {label}" for label in row["next_sentence"] if label)
        console.text()
        console.heading(
            f"row {row['number']} of {row['split']} · {row['length']} tokens in {row['num_segments']} "
            f"{'segment' if row['num_segments'] == 1 else 'segments'}{next_sentence} · "
            f"{row['num_targets']} masked"
        )
        console.inline_styled([marked(span) for span in row["spans"]])
    if rows:
        console.text()
        console.text(
            "{token}: replaced by [MASK]; {token>other}: replaced by a random token; {token=}: kept, and predicted too"
        )


def marked(span: dict[str, str]) -> tuple[str, str]:
    """A span of a row as text and its colour."""
    text = span["text"]
    if "masked" not in span:
        return text, ""
    space = " " if text.startswith(" ") else ""
    text = text.replace("\n", "\\n")
    end = {"mask": "", "kept": "=", "random": f">{span.get('replacement', '').strip(' ')}"}[span["masked"]]
    colour = {"mask": "yellow", "kept": "green", "random": "magenta"}[span["masked"]]
    return f"{space}{{{text.strip(' ')}{end}}}", colour


def show_document(document: dict[str, Any], console: Console) -> None:
    """A document, and the same with its tokens set apart."""
    console.heading(
        f"document {document['number']} · row {document['row']} of {document['file']} · {document['tokens']} tokens"
    )
    console.text(document["text"])
    console.text()
    console.text("|".join(piece.replace("\n", "\\n") for piece in document["token_strings"]))


def show_world(result: dict[str, Any], console: Console) -> None:
    """Documents or examples of tinyworld."""
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
            f"{mood}{document['words']} words, {document['nats']:.1f} nats ({per_byte:.2f} bits a byte)"
        )
        console.text(document["text"])
        console.text()
