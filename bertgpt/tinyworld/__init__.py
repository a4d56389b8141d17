"""tinyworld: a synthetic English corpus from a probabilistic grammar with exact log-probabilities.

It replaces a corpus where there is no network, and it measures learning: how close a model comes to the true entropy,
and which category of words it lacks (names, pronouns, possessions, agreement). Modules, bottom up: `lexicon` and
`tables` (words and their probabilities), `grammar` (tables, sampler and parser), `story_state`, `stories` and `notices`
(the rules), `world` (documents and their log-probabilities), `oracle` (Bayes-optimal prediction of masked words),
`trigram` (an n-gram baseline), `tasks` (counterparts of evaluation sets).
"""

from itertools import islice
from typing import Any

from bertgpt.tinyworld.grammar import CATEGORIES
from bertgpt.tinyworld.tasks import examples
from bertgpt.tinyworld.world import Document, Parse, World

__all__ = ["Document", "Parse", "World", "describe_world", "examples"]


def describe_world(seed: int, start: int, docs: int, task: str | None, split: str) -> dict[str, Any]:
    """Documents with their labels and log-probabilities, or examples of a task."""
    world = World(seed)
    result: dict[str, Any] = {"kind": "tinyworld", "seed": seed}
    if task is not None:
        rows = islice(examples(world, task, split, start), docs)
        return result | {"task": task, "split": split, "examples": list(rows)}
    documents = world.documents(start, start + docs)
    return result | {"documents": [describe_document(world, document) for document in documents]}


def describe_document(world: World, document: Document) -> dict[str, Any]:
    """A document with its negative log-likelihood in nats, in total and by category."""
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
        "nats_by_category": {
            category: 0.0 - sum(word.logp for word in words if word.category == category) for category in CATEGORIES
        },
    }
