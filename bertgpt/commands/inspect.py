"""`bertgpt inspect`: look into any artefact."""

import math
from typing import Any

from bertgpt.config import InspectOptions
from bertgpt.console import Console
from bertgpt.errors import BertGPTError, did_you_mean, quoted


def run(options: InspectOptions) -> dict[str, Any]:
    """What there is to see."""
    if options.path != "tinyworld":
        raise BertGPTError(
            "BG210",
            f"there is nothing called {quoted(options.path)} to look into",
            hint=did_you_mean(options.path, ["tinyworld"]),
        )
    from bertgpt.corpora.tinyworld import look

    return look(options.seed, options.start, options.docs, options.task, options.split)


def show(result: dict[str, Any], console: Console) -> None:
    """Print it for people."""
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
