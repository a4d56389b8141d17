"""The stages `tokenize` and `shard`: from options to a published folder."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertgpt.config.options import ShardOptions, TextOptions, TokenizeOptions
from bertgpt.data.build.inputs import TextInput, TokenizedInput, is_tokenized_folder
from bertgpt.data.build.shuffle import DocumentIndex, ShardPlan, ShardWriter, make_plan, shard_tasks
from bertgpt.data.build.tokenize_worker import FILE_FACTS, PART, PART_FACTS, TRUNCATED
from bertgpt.data.execution.tasks import Metadata, TaskGroup, TaskResult
from bertgpt.data.execution.workdir import WorkDirectory, code_hash, config_diff
from bertgpt.data.format import broken_files, build_manifest, read_manifest, verify
from bertgpt.data.sources.source import Source
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import check_space, link_or_copy, sha256_of

PART_SHARE, SHARD_SHARE = 0.55, 0.5  # bytes on disk for each byte of text, about


def tokenize(options: TokenizeOptions) -> Metadata:
    """Make a folder of token parts."""
    text = TextInput(options)
    out = output_of(options, "tokens", text.sources)
    if options.dry_run:
        return text.plan(out, PART_SHARE)
    if options.task_index is not None:
        return tokenize_task(text, out, text.config)
    text.print_plan(out, PART_SHARE)
    with WorkDirectory(out, options.overwrite) as work:
        if work.is_new:
            work.start_pool(options.workers, text.size, options.tokenizer)
        if work.finished(text.config):
            return summary(out)
        started = time.monotonic()
        check_space(work.root, int(text.size * PART_SHARE))
        receipts, tokenizer, folder = text.parts(work)
        final = work.folder(text.config, "final", empty=True)
        files, counts = [], total_counts(receipts)
        for receipt in receipts:
            entry = file_entry(receipt)
            entry["path"] = receipt.name.replace(TRUNCATED, PART)
            link_or_copy(folder / receipt.name, final / entry["path"])
            files.append(entry)
        manifest = build_manifest("tokens", text.config, tokenizer, counts, files)
        manifest["sources"] = text.source_counts(receipts)
        work.publish(final, manifest, text.tokenizer_folder(work), text.run_metadata(receipts, started))
    return summary(out)


def shard(options: ShardOptions) -> Metadata:
    """Make a folder of shards, from text or from token parts."""
    if options.repair is not None:
        return repair(options)
    if options.val_fraction + options.test_fraction >= 1:
        raise BertGPTError("BG204", "--val-fraction and --test-fraction leave nothing for training")
    origin = TokenizedInput(options) if is_tokenized_folder(options.sources) else TextInput(options)
    out = output_of(options, "shards", origin.sources)
    if options.dry_run:
        return origin.plan(out, PART_SHARE + SHARD_SHARE)
    if options.task_index is not None:
        return tokenize_task(origin, out, shard_config(options, origin.config))
    origin.print_plan(out, PART_SHARE + SHARD_SHARE)
    with WorkDirectory(out, options.overwrite) as work:
        if work.is_new:
            work.start_pool(options.workers, origin.size, options.tokenizer)
        config = shard_config(options, origin.config)
        if work.finished(config):
            return summary(out)
        started = time.monotonic()
        check_space(work.root, int(origin.size * (PART_SHARE + SHARD_SHARE)))
        parts, tokenizer, folder = origin.parts(work)
        plan, receipts, made = write_shards(options, work, config, parts, folder, tokenizer)
        final = work.folder(config, "final", empty=True)
        for receipt in receipts:
            link_or_copy(made / receipt.name, final / receipt.name)
        files = [file_entry(receipt) | {"split": receipt.name.rpartition("-")[0]} for receipt in receipts]
        counts = total_counts(parts) | {"duplicates": plan.duplicates, "cut_documents": plan.cut}
        manifest = build_manifest("shards", config, tokenizer, counts, files)
        manifest["sources"] = origin.source_counts(parts)
        manifest["splits"] = splits_of(receipts)
        manifest["parent"] = origin.parent
        work.publish(final, manifest, origin.tokenizer_folder(work), origin.run_metadata(parts, started))
    for split, fraction in (("val", options.val_fraction), ("test", options.test_fraction)):
        if fraction and split not in manifest["splits"]:
            console.note(f"no document fell into {split}: a larger --{split}-fraction keeps some")
    return summary(out)


def tokenize_task(origin: "TextInput | TokenizedInput", out: Path, config: Metadata) -> Metadata:
    """Tokenize one share of the text, for whoever puts the shares together."""
    options = origin.options
    if isinstance(origin, TokenizedInput):
        raise BertGPTError("BG203", "token parts are finished: nothing is left to be shared out")
    with WorkDirectory(out, options.overwrite, options.task_index) as work:
        work.start_pool(options.workers, origin.size // (options.num_tasks or 1), options.tokenizer)
        if work.finished(config):
            return summary(out)
        check_space(work.root, int(origin.size * PART_SHARE) // (options.num_tasks or 1))
        receipts = origin.tokenize_share(work)
        return {
            "path": str(out),
            "task": options.task_index,
            "of": options.num_tasks,
            **{name: sum(receipt.metadata[name] for receipt in receipts) for name in ("documents", "tokens", "bytes")},
        }


def repair(options: ShardOptions) -> Metadata:
    """Rebuild what is broken in a folder of shards, and nothing else; the result must be what the manifest says."""
    folder = Path(options.repair or "")
    manifest = read_manifest(folder)
    broken = broken_files(folder, manifest, contents=True)
    if not broken:
        console.note(f"nothing is broken in {folder}")
        return summary(folder)
    options = recorded_options(options, folder, manifest)
    origin = TokenizedInput(options) if is_tokenized_folder(options.sources) else TextInput(options)
    with WorkDirectory(folder, fresh=True) as work:
        config = shard_config(options, origin.config)
        if config != manifest["config"]:
            raise BertGPTError(
                "BG305",
                "these shards were made of something else",
                path=str(folder),
                cause="; ".join(config_diff(manifest["config"], config)),
                hint="give the SOURCE that they were made of",
            )
        work.start_pool(options.workers, origin.size)
        parts, tokenizer, parts_folder = origin.parts(work)
        _, receipts, made = write_shards(options, work, config, parts, parts_folder, tokenizer, only=set(broken))
        named = {file["path"]: file for file in manifest["files"]}
        for receipt in receipts:
            if receipt.sha256 != named[receipt.name]["sha256"]:
                raise BertGPTError("BG305", "a rebuilt file is another one than before", path=receipt.name)
            shutil.copyfile(made / receipt.name, work.root / receipt.name)
            (work.root / receipt.name).replace(folder / receipt.name)
        work.remove()
    console.note(f"rebuilt {', '.join(sorted(broken))}")
    verify(folder, manifest)
    return summary(folder)


def recorded_options(options: ShardOptions, folder: Path, manifest: Mapping[str, Any]) -> ShardOptions:
    """The options that a folder was made with; sources from the command line, else from its run.json."""
    try:
        kept = json.loads((folder / "run.json").read_text(encoding="utf-8"))["options"]
        sources = options.sources or list(kept["sources"])
        given = kept["tokenizer"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BertGPTError(
            "BG307", "run.json is missing or broken, and tells how these shards were made", path=str(folder)
        ) from None
    tokenizer = given and str(folder / "tokenizer")
    return ShardOptions.model_validate(kept | {"sources": sources, "tokenizer": tokenizer, "workers": options.workers})


# ------------------------------------------------------------------------------------------------- the shards


def shard_config(options: ShardOptions, tokens: Metadata) -> Metadata:
    """What decides the bytes of the shards."""
    return {
        "tokens": tokens,
        "shard_tokens": options.shard_tokens,
        "val_fraction": options.val_fraction,
        "test_fraction": options.test_fraction,
        "seed": options.seed,
        "dedup": options.dedup,
    }


def write_shards(
    options: ShardOptions,
    work: WorkDirectory,
    config: Metadata,
    parts: Sequence[TaskResult],
    folder: Path,
    tokenizer: Tokenizer,
    only: set[str] | None = None,
) -> tuple[ShardPlan, list[TaskResult], Path]:
    """Deal the documents of the parts to shards, and write those."""
    documents = DocumentIndex.of([folder / receipt.name for receipt in parts], [receipt.metadata for receipt in parts])
    paths = [folder / receipt.name for receipt in parts]
    fractions = {"val": options.val_fraction, "test": options.test_fraction}
    fractions = {split: fraction for split, fraction in fractions.items() if fraction}
    plan = make_plan(documents, options.seed, options.shard_tokens, fractions, options.dedup)
    made = work.folder(config, "shards")
    identity = config | {"parts": [receipt.sha256 for receipt in parts]}
    tasks = [task for task in shard_tasks(plan, identity) if only is None or task.name in only]
    arguments = ([str(path) for path in paths], options.shard_tokens, tokenizer.eos_id, tokenizer.max_id)
    job = TaskGroup(ShardWriter, arguments, made, code_hash())
    return plan, work.run(job, tasks, "gathering", durable=True), made


def splits_of(receipts: Sequence[TaskResult]) -> Metadata:
    """Documents, tokens and bytes of each split."""
    splits: dict[str, Counter[str]] = {}
    for receipt in receipts:
        split = splits.setdefault(receipt.name.rpartition("-")[0], Counter())
        split.update({"files": 1} | {name: receipt.metadata[name] for name in ("documents", "tokens", "bytes")})
    return {name: dict(counts) for name, counts in splits.items()}


def output_of(options: TextOptions, kind: str, sources: Sequence[Source]) -> Path:
    """The folder to make."""
    if options.out is not None:
        return Path(options.out)
    if len(sources) == 1 and sources[0].format == "tinyworld":
        return Path("data") / kind / "tinyworld"
    if len(options.sources) == 1 and sources and (corpus := sources[0].corpus):
        return Path("data") / kind / corpus.rpartition("/")[2]
    raise BertGPTError("BG203", "--out is missing: the folder to make")


def total_counts(receipts: Iterable[TaskResult]) -> Metadata:
    """The counts of all parts together."""
    counts: Counter[str] = Counter(dict.fromkeys(("documents", "tokens", "bytes"), 0))
    for receipt in receipts:
        counts.update({name: receipt.metadata[name] for name in ("documents", "tokens", "bytes")})
        counts.update(receipt.metadata["counts"])
    return dict(counts)


def file_entry(receipt: TaskResult) -> Metadata:
    """What the manifest says of a file."""
    entry = {
        "path": receipt.name,
        "bytes": receipt.bytes,
        "sha256": receipt.sha256,
        "text_bytes": receipt.metadata["bytes"],
    }
    return entry | {name: receipt.metadata[name] for name in (*FILE_FACTS, *PART_FACTS) if name in receipt.metadata}


def summary(out: Path) -> Metadata:
    """What a command returns: the manifest in brief."""
    manifest = read_manifest(out)
    return {
        "path": str(out),
        "kind": manifest["kind"],
        "files": len(manifest["files"]),
        "counts": manifest["counts"],
        "splits": manifest.get("splits", {}),
        "dtype": manifest["dtype"],
        "tokenizer_sha256": manifest["tokenizer"]["sha256"],
        "manifest_sha256": sha256_of(out / "manifest.json"),
    }
