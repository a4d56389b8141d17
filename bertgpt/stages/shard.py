"""`bertgpt shard`: text or tokenized files to shards."""

from pathlib import Path
from typing import Any

from bertgpt.config.corpora import CORPORA
from bertgpt.config.data_options import ShardOptions
from bertgpt.utils.console import Console
from bertgpt.utils.tables import format_number, show_summary


def run(options: ShardOptions) -> dict[str, Any]:
    """Inputs -> tokenize -> assign documents to splits and files -> write shards -> publish."""
    if options.list:
        return {"corpora": corpora()}
    from bertgpt.data.build.prestart import prestart_workers

    prestart_workers(options)  # they start while the imports below are under way
    from bertgpt.data.build.inputs import open_input, open_workdir
    from bertgpt.data.build.publish import publish_shards, summarize, summarize_task
    from bertgpt.data.build.repair import repair_shards
    from bertgpt.data.build.shuffle import assign_documents, check_fractions, shard_config, write_shards

    if options.repair is not None:
        return repair_shards(Path(options.repair), options)
    check_fractions(options)
    inputs = open_input(options)  # text, or tokenized files
    if options.dry_run:
        return inputs.plan()
    with open_workdir(inputs) as workdir:
        config = shard_config(options, inputs.config)
        if workdir.is_up_to_date(config):
            return summarize(inputs.out)
        workdir.check_space(inputs.disk_needed, inputs.output_bytes, inputs.config, config)
        tokenized = inputs.tokenize(workdir)
        if options.task_index is not None:
            return summarize_task(inputs, tokenized)
        plan = assign_documents(tokenized, options)
        shards = write_shards(plan, tokenized, workdir, config)
        publish_shards(workdir, config, inputs, tokenized, shards)
    return summarize(inputs.out)


def corpora() -> list[dict[str, Any]]:
    """The named corpora."""
    entries = [
        {
            "name": name,
            "description": corpus.description,
            "documents": corpus.documents,
            "bytes": corpus.text_bytes,
            "splits": list(corpus.files),
            "subsets": list(corpus.subsets),
            "repository": corpus.repository or None,
            "revision": corpus.revision or None,
            "license": corpus.license,
        }
        for name, corpus in CORPORA.items()
    ]
    tinyworld = {"name": "tinyworld", "description": "built-in corpus with known entropy", "license": "MIT"}
    return [*entries, dict.fromkeys(entries[0]) | tinyworld | {"splits": ["train"], "subsets": []}]


def show(result: dict[str, Any], console: Console) -> None:
    """Print the counts of the shards, or the named corpora."""
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
            corpus["license"],
        )
        for corpus in result["corpora"]
    ]
    console.table(("source", "on the Hub", "documents", "text", "splits", "license"), rows)
    console.text()
    for corpus in result["corpora"]:
        if corpus["subsets"]:
            console.text(f"--subset of {corpus['name']}: {', '.join(corpus['subsets'])}")
