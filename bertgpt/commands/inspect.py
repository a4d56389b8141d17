"""`bertgpt inspect`: look into any artefact."""

import math
import os
from pathlib import Path
from typing import Any

from bertgpt.commands.artefacts import shown
from bertgpt.config import InspectOptions
from bertgpt.console import Console
from bertgpt.errors import BertGPTError, did_you_mean, quoted


def run(options: InspectOptions) -> dict[str, Any]:
    """What there is to see."""
    if os.path.isdir(options.path):  # noqa: PTH112 - a Path of an impossible name raises
        from bertgpt.shards.look import look as look_into

        return look_into(Path(options.path), options.doc, options.verify)
    if options.path != "tinyworld":
        raise BertGPTError(
            "BG210",
            f"there is nothing called {quoted(options.path)} to look into",
            hint=did_you_mean(options.path, ["tinyworld"]) or "give a folder made by tokenize or shard, or tinyworld",
        )
    from bertgpt.corpora.tinyworld import look

    return look(options.seed, options.start, options.docs, options.task, options.split)


def show(result: dict[str, Any], console: Console) -> None:
    """Print it for people."""
    if result["kind"] == "tinyworld":
        show_world(result, console)
    elif "document" in result:
        show_document(result["document"], console)
    else:
        show_folder(result, console)


def show_folder(result: dict[str, Any], console: Console) -> None:
    """What an artefact holds."""
    roles = ", ".join(f"{role} {i}" for role, i in result["tokenizer"]["roles"].items())
    console.heading(
        f"{result['kind']} in {result['path']} ({result['dtype']}, ids to {result['tokenizer']['max_id']:,}: {roles})"
    )
    columns = ("file", "documents", "tokens", "text bytes", "bytes", "sha256")
    keys = ("path", "documents", "tokens", "text_bytes", "bytes")
    console.table(columns, ([*(shown(f[key]) for key in keys), f["sha256"][:12]] for f in result["files"]))
    console.text()
    console.text("tokens in a document: " + ", ".join(f"{name} {n:,}" for name, n in result["lengths"].items()))
    console.text("counts: " + ", ".join(f"{name.replace('_', ' ')} {shown(n)}" for name, n in result["counts"].items()))
    console.text("sources: " + ", ".join(source["name"] for source in result["sources"]))
    console.text(f"verified: {result['verified']}")


def show_document(document: dict[str, Any], console: Console) -> None:
    """A document, and the same with its tokens set apart."""
    console.heading(
        f"document {document['number']} · row {document['row']} of {document['file']} · {document['tokens']} tokens"
    )
    console.text(document["text"])
    console.text()
    console.text("|".join(piece.replace("\n", "\\n") for piece in document["pieces"]))


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
