"""tinyworld: a generative little world in plain English whose every probability is known.

It stands in for a corpus where there is no network, and it measures learning where there is: how close a model comes
to the true entropy, and which mechanism it lacks (names, pronouns, possessions, agreement). The modules, from the
words up: `lexicon` and `words` (what can be said), `telling` (tables of choices, the writer and the reader), `tale`,
`stories` and `notices` (the grammar), `world` (documents and their probabilities), `oracle` and `trigram` (the best
and the forgetful guess), `tasks` (the twins of the evaluations).
"""

from itertools import islice
from typing import Any

from bertgpt.tinyworld.grammar import CATEGORIES
from bertgpt.tinyworld.tasks import examples
from bertgpt.tinyworld.world import Document, Parse, World

__all__ = ["Document", "Parse", "World", "describe_world", "examples"]


def describe_world(seed: int, start: int, docs: int, task: str | None, split: str) -> dict[str, Any]:
    """Some documents with all that is known about them, or some examples of a task."""
    world = World(seed)
    seen: dict[str, Any] = {"kind": "tinyworld", "seed": seed}
    if task is not None:
        found = islice(examples(world, task, split, start), docs)
        return seen | {"task": task, "split": split, "examples": list(found)}
    return seen | {
        "documents": [describe_document(world, document) for document in world.documents(start, start + docs)]
    }


def describe_document(world: World, document: Document) -> dict[str, Any]:
    """A document with its surprise, in nats, by mechanism."""
    words = world.parse(document.text).words
    return {
        "index": document.index,
        "text": document.text,
        "genre": document.genre,
        "topic": document.topic,
        "mood": document.mood,
        "words": sum(word.text[0].isalpha() for word in words),
        "bytes": len(document.text.encode()),
        "nats": -document.logp,
        "nats_by_mechanism": {m: 0.0 - sum(w.logp for w in words if w.category == m) for m in CATEGORIES},
    }
