"""Storing what a plan draws in its first epochs: masks, or rows as a whole that need no shards any more."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertgpt.data.format import TokenFile
from bertgpt.data.loading.rows import RowBuilder, SpanFile, SpecialIds
from bertgpt.data.execution.tasks import Facts, TaskResult, Task
from bertgpt.data.loading.mlm import Masker, MLMDataset
from bertgpt.data.loading.epoch_file import masks_schema, rows_schema, write_epochs
from bertgpt.data.tokenizers.tokenizer import Tokenizer, from_path

MASKS, ROWS = ".masks.arrow", ".rows.arrow"
BLOCK_IDS = 1 << 21  # ids of the rows that are made at once


class MaterializeWorker:
    """The worker: it writes the masks or rows of one shard."""

    def __init__(self, tokenizer: str, config: Facts, pieces: int) -> None:
        self.tokenizer: Tokenizer = from_path(Path(tokenizer))
        self.config, self.length, self.paired = config, config["seq_len"], config["sentence_pairs"] != "none"
        self.framer = RowBuilder(self.length, pieces, SpecialIds.of(self.tokenizer), self.tokenizer.dtype)

    def run(self, work: tuple[str, str, str, str, int], path: Path) -> Facts:
        """Those of one shard, whose first row is number `first` of its split."""
        ending, spans, shard, split, first = work
        masker = Masker(self.config, split, self.tokenizer)
        rows = MLMDataset([SpanFile(Path(spans))], [TokenFile(Path(shard)).flat], self.framer, masker, first=first)
        copies = 1 if masker.fixed else self.config["dupe_factor"]
        make = self.masks if ending == MASKS else self.rows
        dtype = self.tokenizer.dtype
        schema = masks_schema(dtype) if ending == MASKS else rows_schema(dtype, self.length)
        write_epochs(path, schema, (make(rows, first, copy) for copy in range(copies)))
        return {"rows": copies * (len(rows) - first)}

    def masks(self, rows: MLMDataset, first: int, copy: int) -> Iterator[dict[str, Any]]:
        """What is hidden, block by block."""
        for numbers in self.blocks(first, len(rows)):
            _, masks = rows.parts(numbers, np.full_like(numbers, copy))
            yield {"positions": (masks.positions, masks.scored), "replacements": (masks.replacements, masks.scored)}

    def rows(self, rows: MLMDataset, first: int, copy: int) -> Iterator[dict[str, Any]]:
        """Rows as a model sees them, block by block."""
        for numbers in self.blocks(first, len(rows)):
            batch = rows.batch(numbers, np.full_like(numbers, copy))
            piece = batch.piece_starts < self.length
            scored = np.arange(batch.positions.shape[1]) < batch.scored[:, None]
            yield {
                "input_ids": batch.ids,
                "length": batch.length,
                "piece_starts": (batch.piece_starts, piece),
                "second_starts": (batch.second_starts, piece),
                "masked_positions": (batch.positions, scored),
                "masked_labels": (batch.labels, scored),
                "next_sentence": (batch.next_sentence, piece & self.paired),
            }

    def blocks(self, first: int, end: int) -> Iterator[Any]:
        """The numbers of the rows."""
        step = max(1, BLOCK_IDS // self.length)
        for start in range(first, end, step):
            yield np.arange(start, min(start + step, end))


def materialize_tasks(
    folder: Path, planning: Sequence[Task], receipts: Sequence[TaskResult], config: Facts, endings: Sequence[str]
) -> list[Task]:
    """One task for each shard and each kind of file; rows are numbered through the shards of a split."""
    tasks, rows = [], dict[str, int]()
    for task, receipt in zip(planning, receipts, strict=True):
        split = receipt.name.rpartition("-")[0]
        first = rows.setdefault(split, 0)
        rows[split] += receipt.facts["rows"]
        for ending in endings:
            name = receipt.name.replace(".spans.arrow", ending)
            work = (ending, str(folder / receipt.name), task.work[0], split, first)
            tasks.append(Task(name, task.identity | {"spans": receipt.sha256, "first": first}, task.weight, work))
    return tasks
