"""Publish tokenized files and shards: link the files, write their manifest, move the folder into place."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bertgpt.data.build.files import (
    COUNTS,
    TOKENIZED,
    TRUNCATED,
    TokenizedFiles,
    file_entry,
    split_of,
    sum_by_split,
    sum_counts,
)
from bertgpt.data.build.inputs import TextInput, TokenizedInput
from bertgpt.data.build.shuffle import Shards
from bertgpt.data.execution.tasks import Metadata, TaskResult
from bertgpt.data.execution.workdir import WorkDirectory
from bertgpt.data.format import build_manifest, read_manifest
from bertgpt.utils.files import sha256_of


def publish_tokenized(workdir: WorkDirectory, inputs: TextInput, tokenized: TokenizedFiles) -> None:
    """Publish tokenized files and their tokenizer."""
    files = [text_file_entry(result) for result in tokenized.results]
    manifest = build_manifest("tokens", inputs.config, tokenized.tokenizer, total_counts(tokenized.results), files)
    manifest["sources"] = inputs.source_counts(tokenized.results)
    run_metadata = inputs.run_metadata(tokenized.results, workdir.start_time)
    workdir.publish_files(tokenized.paths, manifest, tokenized.tokenizer_folder, run_metadata)


def publish_shards(
    workdir: WorkDirectory,
    config: Metadata,
    inputs: TextInput | TokenizedInput,
    tokenized: TokenizedFiles,
    shards: Shards,
) -> None:
    """Publish shards and their tokenizer."""
    files = [text_file_entry(result) | {"split": split_of(result.name)} for result in shards.results]
    counts = total_counts(tokenized.results)
    counts |= {"duplicates": shards.plan.duplicates, "fragmented_documents": shards.plan.fragmented}
    manifest = build_manifest("shards", config, tokenized.tokenizer, counts, files)
    manifest["sources"] = inputs.source_counts(tokenized.results)
    manifest["splits"] = sum_by_split(shards.results, COUNTS)
    manifest["parent"] = inputs.parent
    if inputs.parent is not None:
        workdir.parents[inputs.path] = inputs.parent["manifest_sha256"]
    run_metadata = inputs.run_metadata(tokenized.results, workdir.start_time)
    workdir.publish_files(shards.paths, manifest, tokenized.tokenizer_folder, run_metadata)


def text_file_entry(result: TaskResult) -> Metadata:
    """The manifest entry of a tokenized file or a shard; the one that a limit truncates gets the usual name."""
    entry = file_entry(result, {"text_bytes": result.metadata["bytes"]})
    return entry | {"path": result.name.replace(TRUNCATED, TOKENIZED)}


def total_counts(results: Sequence[TaskResult]) -> dict[str, int]:
    """Documents, tokens and bytes of all tokenized files, and what was left out of them or stood out."""
    counts = Counter(sum_counts(results))
    for result in results:
        counts.update(result.metadata["counts"])
    return dict(counts)


def summarize_task(inputs: TextInput | TokenizedInput, tokenized: TokenizedFiles) -> Metadata:
    """What the commands return with --task-index: the counts of this share."""
    task = {"task_index": inputs.options.task_index, "num_tasks": inputs.options.num_tasks}
    return {"path": str(inputs.out)} | task | sum_counts(tokenized.results)


def summarize(folder: Path) -> Metadata:
    """The manifest in brief: what the commands return."""
    manifest = read_manifest(folder)
    return {
        "path": str(folder),
        "kind": manifest["kind"],
        "files": len(manifest["files"]),
        "counts": manifest["counts"],
        "splits": manifest.get("splits", {}),
        "dtype": manifest["dtype"],
        "tokenizer_sha256": manifest["tokenizer"]["sha256"],
        "manifest_sha256": sha256_of(folder / "manifest.json"),
    }
