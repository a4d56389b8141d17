"""The stage `mask`: shards to a plan of rows for masked-language-model training.

A plan says where the pieces of each row are in the base shards; what is hidden in them is drawn when they are read.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bertgpt.config.options import MaskOptions
from bertgpt.data.build.static_masks import StaticMaskWorker, static_mask_tasks
from bertgpt.data.execution.tasks import Metadata, Task, TaskGroup, TaskResult
from bertgpt.data.execution.workdir import WorkDirectory, code_hash
from bertgpt.data.format import TokenFile, build_manifest, read_manifest, verify, verify_tokenizer
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
from bertgpt.data.tokenizers.load import from_path
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import check_space, link_or_copy, sha256_of, write_json

SPAN_SHARE, MASKS_SHARE = 0.4, 0.7  # bytes on disk for each byte of the shards, about; masks: for each stored epoch


def build_mask_plan(options: MaskOptions) -> Metadata:
    """Make a plan."""
    if abs(options.mask_prob + options.random_prob + options.keep_prob - 1) > 1e-9:
        raise BertGPTError("BG204", "--mask-prob, --random-prob and --keep-prob do not add up to 1")
    if options.dupe_factor > 1 and not options.static:
        raise BertGPTError("BG203", "--dupe-factor needs --static")
    shards, out = Path(options.shards), Path(options.out)
    base = read_manifest(shards)
    if base["kind"] != "shards":
        raise BertGPTError("BG211", f"{shards} holds {base['kind']}, not shards")
    verify(shards, base)
    given = verify_tokenizer(shards, base)
    tokenizer = with_bert_specials(given)
    parent = sha256_of(shards / "manifest.json")
    config = config_of(options, parent)
    if options.dry_run:
        return {"path": str(out), "files": len(base["files"]), "tokens": base["counts"]["tokens"]}
    with WorkDirectory(out, options.overwrite) as work:
        if work.finished(config):
            return summary(out)
        size = sum(file["bytes"] for file in base["files"])
        check_space(work.root, int(size * disk_ratio(options)))
        kept = work.folder(config, "tokenizer")
        tokenizer.save(kept)
        work.start_pool(options.workers, 2 * size)
        job = TaskGroup(MaskPlanWorker, (str(kept), given.eos_id, options), work.folder(config, "spans"), code_hash())
        tasks = tasks_of(shards, base, config)
        receipts = work.run(job, tasks, "planning", durable=True)
        pieces = max_segments(receipts)
        storing = TaskGroup(StaticMaskWorker, (str(kept), config), work.folder(config, "stored"), code_hash())
        tasks = static_mask_tasks(job.folder, tasks, receipts) if options.static else []
        stored = work.run(storing, tasks, "storing", durable=True) if tasks else []
        final = work.folder(config, "final", empty=True)
        for folder, made in ((job.folder, receipts), (storing.folder, stored)):
            for receipt in made:
                link_or_copy(folder / receipt.name, final / receipt.name)
        write_json(final / "plan.json", {"seq_len": options.seq_len, "pieces": pieces})
        counts: Counter[str] = sum((Counter(receipt.metadata["counts"]) for receipt in receipts), Counter())
        files = [*map(file_entry, [*receipts, *stored]), entry_of(final / "plan.json")]
        manifest = build_manifest("plan", config, tokenizer, dict(counts), files)
        manifest["tokenizer"]["base_sha256"] = given.fingerprint
        manifest["base"] = {"manifest_sha256": parent, "path": os.path.relpath(shards, out)}
        manifest["splits"] = splits_of(receipts, options.seq_len)
        work.publish(final, manifest, kept, {"options": options.model_dump(mode="json")})
    return summary(out)


def config_of(options: MaskOptions, parent: str) -> Metadata:
    """What decides the rows and their masks."""
    rows = ("seq_len", "sentence_pairs", "pack", "seed", "static", "dupe_factor")
    masks = ("scheme", "mlm_probability", "mask_prob", "random_prob")
    return {"parent": parent} | {name: getattr(options, name) for name in (*rows, *masks)}


def tasks_of(shards: Path, base: Metadata, config: Metadata) -> list[Task]:
    """One task for each shard."""
    return [
        Task(
            file["path"].replace(".arrow", ".spans.arrow"),
            config | {"shard": file["sha256"]},
            file["bytes"],
            (str(shards / file["path"]), number),
        )
        for number, file in enumerate(base["files"])
    ]


class MaskPlanWorker:
    """The worker of the stage."""

    def __init__(self, tokenizer: str, end: int, options: MaskOptions) -> None:
        self.tokenizer: Tokenizer = from_path(Path(tokenizer))
        self.end, self.options = end, options

    def run(self, work: tuple[str, int], path: Path) -> Metadata:
        """Plan the rows of one shard."""
        shard, number = work
        file = TokenFile(Path(shard))
        pieces = self.pieces(file, number)
        length = self.options.seq_len
        if self.options.pack:
            row_of, rows = best_fit_decreasing(pieces.length_with_specials, length)
        else:
            row_of, rows = np.arange(len(pieces)), len(pieces)
        write_spans(path, pieces, row_of, rows)
        text = int(pieces.a_len.sum() + pieces.b_len.sum())
        labels = Counter(pieces.label.tolist())
        return {
            "documents": len(file),
            "tokens": text,
            "rows": rows,
            "framed": int(pieces.length_with_specials.sum()),
            "most_pieces": int(np.bincount(row_of).max(initial=0)) if rows else 0,
            "counts": {
                "rows": rows,
                "pieces": len(pieces),
                "tokens": text,
                "next": labels[IS_NEXT] if self.options.sentence_pairs != "none" else 0,
                "not_next": labels[NOT_NEXT],
            },
        }

    def pieces(self, file: TokenFile, number: int) -> SegmentSpans:
        """The documents of a shard cut up, and paired if that is wanted."""
        start, stop = file.offsets[:-1], file.offsets[1:]
        closed = (stop > start) & (file.flat[np.maximum(stop - 1, 0)] == self.end)
        cutter = WordBoundaries(self.tokenizer.starts_word[file.flat])
        stop = stop - closed  # without the end id
        if self.options.sentence_pairs == "none":
            return split_into_segments(start, stop, cutter, self.options.seq_len - 2)
        room = self.options.seq_len - 3
        pieces = split_into_pairs(start, stop, cutter, room // 2, room - room // 2)
        return sample_negatives(pieces, self.options.sentence_pairs, self.options.seed, number, str(file.path))


def disk_ratio(options: MaskOptions) -> float:
    """Bytes on disk for each byte of the shards, about."""
    return SPAN_SHARE + MASKS_SHARE * options.static * options.dupe_factor


def max_segments(receipts: list[TaskResult]) -> int:
    """The most pieces of any row: as many slots has every row, so that shapes stay the same."""
    return max((receipt.metadata["most_pieces"] for receipt in receipts), default=0)


def splits_of(receipts: list[TaskResult], length: int) -> Metadata:
    """Rows, ids and padding of each split."""
    splits: dict[str, Counter[str]] = {}
    for receipt in receipts:
        split = splits.setdefault(receipt.name.rpartition("-")[0], Counter())
        split.update(files=1, rows=receipt.metadata["rows"], tokens=receipt.metadata["tokens"])
        split["padding"] += receipt.metadata["rows"] * length - receipt.metadata["framed"]
    return {name: dict(counts) for name, counts in splits.items()}


def file_entry(receipt: TaskResult) -> Metadata:
    """What the manifest says of a file."""
    split = receipt.name.rpartition("-")[0]
    known = {"path": receipt.name, "bytes": receipt.bytes, "sha256": receipt.sha256, "split": split}
    return known | {name: receipt.metadata[name] for name in ("rows", "most_pieces") if name in receipt.metadata}


def entry_of(path: Path) -> Metadata:
    """What it says of any other file."""
    return {"path": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def summary(out: Path) -> dict[str, Any]:
    """The manifest in brief."""
    manifest = read_manifest(out)
    return {
        "path": str(out),
        "kind": "plan",
        "seq_len": manifest["config"]["seq_len"],
        "splits": manifest["splits"],
        "counts": manifest["counts"],
        "vocabulary": manifest["tokenizer"]["max_id"] + 1,
        "manifest_sha256": sha256_of(out / "manifest.json"),
    }
