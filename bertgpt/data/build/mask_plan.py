"""Shards to a mask plan: the rows of masked-language-model training, and optionally static masks.

A plan says where the segments of each row are in the base shards. Without static masks, the masks are drawn when rows
are read.
"""

import os
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np

from bertgpt.config.code_deps import code_hash
from bertgpt.config.data_options import MaskOptions
from bertgpt.data.build.files import FileSet, file_entry, split_of, sum_by_split
from bertgpt.data.build.static_masks import StaticMaskWorker, static_mask_tasks
from bertgpt.data.build.tokenizer_cache import remember_tokenizer, worker_tokenizer
from bertgpt.data.execution.tasks import Metadata, Task, TaskGroup
from bertgpt.data.execution.workdir import WorkDirectory
from bertgpt.data.format import TokenFile, build_manifest, manifest_hash, read_manifest
from bertgpt.data.loading.open import open_artifact
from bertgpt.data.loading.rows import write_spans
from bertgpt.data.loading.segments import (
    IS_NEXT,
    NOT_NEXT,
    SegmentSpans,
    WordBoundaries,
    best_fit_decreasing,
    sample_negatives,
    split_into_pairs,
    split_into_segments,
)
from bertgpt.data.tokenizers.layouts import with_bert_specials
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import sha256_of

SPANS_RATIO, MASKS_RATIO = 0.4, 0.7  # bytes on disk per byte of the shards, about; of masks: per stored epoch
ROW_OPTIONS = ("seq_len", "sentence_pairs", "pack", "seed", "static", "dupe_factor")
MASK_OPTIONS = ("scheme", "mlm_probability", "mask_prob", "random_prob")


class MaskInput:
    """The base shards of a mask plan, and their tokenizer with the special tokens of BERT."""

    def __init__(self, options: MaskOptions) -> None:
        check_mask_options(options)
        self.options, self.folder, self.out = options, Path(options.shards), Path(options.out)
        self.parent = manifest_hash(self.folder)
        self.manifest, self.base_tokenizer = open_artifact(self.folder, "shards")
        self.tokenizer = with_bert_specials(self.base_tokenizer)
        remember_tokenizer(self.tokenizer)
        # What decides the rows and their masks.
        self.config = {"parent": self.parent} | {name: getattr(options, name) for name in (*ROW_OPTIONS, *MASK_OPTIONS)}
        self.size = sum(file["bytes"] for file in self.manifest["files"])
        self.disk_needed = int(self.size * (SPANS_RATIO + MASKS_RATIO * options.static * options.dupe_factor))

    def plan(self) -> Metadata:
        """The result of a dry run."""
        return {
            "path": str(self.out),
            "files": len(self.manifest["files"]),
            "tokens": self.manifest["counts"]["tokens"],
        }

    def tokenizer_folder(self, workdir: WorkDirectory) -> Path:
        """Where the tokenizer is saved, for workers and for the plan."""
        return workdir.folder(self.config, "tokenizer")


def check_mask_options(options: MaskOptions) -> None:
    """Refuse options that contradict each other."""
    if abs(options.mask_prob + options.random_prob + options.keep_prob - 1) > 1e-9:
        raise BertGPTError("BG204", "--mask-prob, --random-prob and --keep-prob do not add up to 1")
    if options.dupe_factor > 1 and not options.static:
        raise BertGPTError("BG203", "--dupe-factor needs --static")


def plan_rows(inputs: MaskInput, workdir: WorkDirectory) -> FileSet:
    """Plan the rows of each shard: one file of spans per shard."""
    folder = inputs.tokenizer_folder(workdir)
    inputs.tokenizer.save(folder)
    worker_args = (str(folder), inputs.tokenizer.fingerprint, inputs.base_tokenizer.eos_id, inputs.options)
    group = TaskGroup(RowPlanWorker, worker_args, workdir.folder(inputs.config, "spans"), code_hash("mask"))
    tasks = row_tasks(inputs)
    with closing(workdir.run(group, tasks, "building mask plan", durable=True)) as results:
        return FileSet(group.folder, list(results))


def draw_static_masks(inputs: MaskInput, workdir: WorkDirectory, spans: FileSet) -> FileSet:
    """Draw the masks of the first epochs, with --static: one file of masks per shard."""
    worker_args = (str(inputs.tokenizer_folder(workdir)), inputs.tokenizer.fingerprint, inputs.config)
    group = TaskGroup(StaticMaskWorker, worker_args, workdir.folder(inputs.config, "masks"), code_hash("mask"))
    tasks = static_mask_tasks(spans.folder, row_tasks(inputs), spans.results) if inputs.options.static else []
    with closing(workdir.run(group, tasks, "drawing masks", durable=True)) as results:
        return FileSet(group.folder, list(results))


def publish_mask_plan(workdir: WorkDirectory, inputs: MaskInput, spans: FileSet, masks: FileSet) -> None:
    """Publish the spans, the static masks and the tokenizer."""
    counts: Counter[str] = sum((Counter(result.metadata["counts"]) for result in spans.results), Counter())
    files = [
        file_entry(result, {"split": split_of(result.name)}, ("rows", "max_segments"))
        for result in (*spans.results, *masks.results)
    ]
    manifest = build_manifest("mask_plan", inputs.config, inputs.tokenizer, dict(counts), files)
    manifest["tokenizer"]["base_sha256"] = inputs.base_tokenizer.fingerprint
    manifest["base"] = {"manifest_sha256": inputs.parent, "path": os.path.relpath(inputs.folder, inputs.out)}
    manifest["splits"] = sum_by_split(spans.results, ("rows", "tokens", "padding"))
    run_metadata = {"options": inputs.options.model_dump(mode="json")}
    workdir.parents[inputs.folder] = inputs.parent
    workdir.publish_files([*spans.paths, *masks.paths], manifest, inputs.tokenizer_folder(workdir), run_metadata)


def row_tasks(inputs: MaskInput) -> list[Task]:
    """One task for each shard."""
    return [
        Task(
            file["path"].replace(".arrow", ".spans.arrow"),
            inputs.config | {"shard": file["sha256"]},
            file["bytes"],
            (str(inputs.folder / file["path"]), number),
        )
        for number, file in enumerate(inputs.manifest["files"])
    ]


class RowPlanWorker:
    """Worker that plans the rows of a shard."""

    def __init__(self, tokenizer_folder: str, fingerprint: str, eos_id: int, options: MaskOptions) -> None:
        self.tokenizer = worker_tokenizer(tokenizer_folder, fingerprint)
        self.eos_id, self.options = eos_id, options

    def run(self, payload: tuple[str, int], path: Path) -> Metadata:
        """Split the documents of a shard into segments and pack these into rows."""
        shard, number = payload
        file = TokenFile(Path(shard))
        segments = self.segments(file, number)
        seq_len, lengths = self.options.seq_len, segments.length_with_specials
        if self.options.pack:
            row_of, rows = best_fit_decreasing(lengths, seq_len)
        else:
            row_of, rows = np.arange(len(segments)), len(segments)
        write_spans(path, segments, row_of, rows)
        tokens = int(segments.a_len.sum() + segments.b_len.sum())
        labels = Counter(segments.label.tolist())
        return {
            "documents": len(file),
            "tokens": tokens,
            "rows": rows,
            "padding": rows * seq_len - int(lengths.sum()),
            "max_segments": int(np.bincount(row_of).max(initial=0)),
            "counts": {
                "rows": rows,
                "segments": len(segments),
                "tokens": tokens,
                "next": labels[IS_NEXT] if self.options.sentence_pairs != "none" else 0,
                "not_next": labels[NOT_NEXT],
            },
        }

    def segments(self, file: TokenFile, number: int) -> SegmentSpans:
        """The segments of a shard: sentence pairs with --sentence-pairs, else single spans; without end ids."""
        start, stop = file.offsets[:-1], file.offsets[1:]
        has_end = (stop > start) & (file.flat[np.maximum(stop - 1, 0)] == self.eos_id)
        boundaries = WordBoundaries(self.tokenizer.starts_word[file.flat])
        stop = stop - has_end
        if self.options.sentence_pairs == "none":
            return split_into_segments(start, stop, boundaries, self.options.seq_len - 2)
        room = self.options.seq_len - 3
        pairs = split_into_pairs(start, stop, boundaries, room // 2, room - room // 2)
        return sample_negatives(pairs, self.options.sentence_pairs, self.options.seed, number, str(file.path))


def summarize_mask_plan(folder: Path) -> Metadata:
    """The manifest of a mask plan in brief: what the command returns."""
    manifest = read_manifest(folder)
    return {
        "path": str(folder),
        "kind": "mask_plan",
        "seq_len": manifest["config"]["seq_len"],
        "splits": manifest["splits"],
        "counts": manifest["counts"],
        "vocab_size": manifest["tokenizer"]["max_id"] + 1,
        "manifest_sha256": sha256_of(folder / "manifest.json"),
    }
