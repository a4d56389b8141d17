"""Static masking: the masks of the first epochs, drawn ahead and stored beside the spans of the rows."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bertgpt.data.build.files import split_of
from bertgpt.data.build.tokenizer_cache import worker_tokenizer
from bertgpt.data.execution.tasks import Metadata, Task, TaskResult
from bertgpt.data.format import TokenFile
from bertgpt.data.loading.mask_file import write_masks
from bertgpt.data.loading.masking import MaskBatch
from bertgpt.data.loading.mlm import Masker
from bertgpt.data.loading.rows import RowBuilder, SpanFile

BLOCK_TOKENS = 1 << 21  # tokens of the rows that are masked at once


class StaticMaskWorker:
    """Draws and writes the masks of one shard."""

    def __init__(self, tokenizer_folder: str, fingerprint: str, config: Metadata) -> None:
        self.tokenizer, self.config = worker_tokenizer(tokenizer_folder, fingerprint), config

    def run(self, payload: tuple[str, str, str, int], path: Path) -> Metadata:
        """Write the masks of a shard for all epochs; `first_row` is the number of its first row within the split."""
        spans_path, shard, split, first_row = payload
        spans, tokens = SpanFile(Path(spans_path)), TokenFile(Path(shard)).flat
        length = self.config["seq_len"]
        builder = RowBuilder(length, spans.max_segments, self.tokenizer)
        masker = Masker(self.config, split, self.tokenizer)
        epochs = 1 if masker.fixed else self.config["dupe_factor"]
        step = max(1, BLOCK_TOKENS // length)

        def masks_of(epoch: int) -> Iterator[MaskBatch]:
            for start in range(0, len(spans), step):
                rows = np.arange(start, min(start + step, len(spans)))
                batch = builder.build([(spans, tokens, row) for row in rows.tolist()])
                yield masker.masks(batch, first_row + rows, np.full_like(rows, epoch))

        write_masks(path, self.tokenizer.dtype, map(masks_of, range(epochs)))
        return {"rows": epochs * len(spans)}


def static_mask_tasks(folder: Path, span_tasks: Sequence[Task], results: Sequence[TaskResult]) -> list[Task]:
    """One task for each shard; rows are numbered through all shards of a split."""
    tasks, rows = [], Counter[str]()  # the rows of each split so far
    for task, result in zip(span_tasks, results, strict=True):
        split = split_of(result.name)
        first_row = rows[split]
        rows[split] += result.metadata["rows"]
        name = result.name.replace(".spans.arrow", ".masks.arrow")
        identity = task.identity | {"spans": result.sha256, "first": first_row}
        tasks.append(Task(name, identity, task.weight, (str(folder / result.name), task.payload[0], split, first_row)))
    return tasks
