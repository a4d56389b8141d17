"""`bertgpt shard`: turn text or token parts into shards."""

from typing import Any

from bertgpt.config.corpora import CORPORA
from bertgpt.config.options import ShardOptions
from bertgpt.utils.console import Console
from bertgpt.utils.tables import format_number, show_summary


def run(options: ShardOptions) -> dict[str, Any]:
    """Do it."""
    if options.list:
        return {"corpora": corpora()}
    from bertgpt.data.build.prestart import prestart_workers

    prestart_workers(options)
    from bertgpt.data.build.build import shard

    return shard(options)


def corpora() -> list[dict[str, Any]]:
    """What is known by name."""
    known = [
        {
            "name": name,
            "what": corpus.description,
            "documents": corpus.documents,
            "bytes": corpus.text_bytes,
            "splits": list(corpus.files),
            "subsets": list(corpus.subsets),
            "repository": corpus.repository or None,
            "revision": corpus.revision or None,
            "licence": corpus.license,
        }
        for name, corpus in CORPORA.items()
    ]
    world = {"name": "tinyworld", "what": "the built-in world, whose entropy is known", "licence": "MIT"}
    return [*known, dict.fromkeys(known[0]) | world | {"splits": ["train"], "subsets": []}]


def show(result: dict[str, Any], console: Console) -> None:
    """Print what was made, or what is known."""
    if "corpora" not in result:
        show_summary(result, console)
        return
    rows = [
        (
            corpus["name"],
            f"{corpus['repository']}@{corpus['revision'][:7]}" if corpus["repository"] else "",
            format_number(corpus["documents"]) if corpus["documents"] else "any",
            f"{corpus['bytes'] / 1e6:,.0f} MB" if corpus["bytes"] else "any",
            ", ".join(corpus["splits"]),
            corpus["licence"],
        )
        for corpus in result["corpora"]
    ]
    console.table(("SOURCE", "on the hub", "documents", "text", "splits", "licence"), rows)
    console.text()
    for corpus in result["corpora"]:
        if corpus["subsets"]:
            console.text(f"--subset of {corpus['name']}: {', '.join(corpus['subsets'])}")
