"""Looking into mask plans: rows as text, with what is hidden in them and what stands there instead."""

from pathlib import Path
from typing import Any

import numpy as np

from bertgpt.data.loading.mlm import MLMBatch, open_mlm_dataset
from bertgpt.data.tokenizers.detokenize import decode_fragment
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.utils.errors import BertGPTError

PAIRS = ("next", "not next", None)


def describe_mask_rows(folder: Path, tokenizer: Tokenizer, split: str, start: int, count: int) -> list[dict[str, Any]]:
    """Some rows of a plan as they are in the first epoch."""
    rows = open_mlm_dataset(folder, split)
    if start >= len(rows):
        cause = f"they are numbered 0 to {len(rows) - 1}"
        raise BertGPTError("BG215", f"there is no row {start} in {split}", path=str(folder), cause=cause)
    numbers = np.arange(start, min(start + count, len(rows)))
    if not len(numbers):
        return []
    batch = rows.batch(numbers, np.zeros_like(numbers))
    return [{"number": int(n), "split": split} | row_of(batch, i, tokenizer) for i, n in enumerate(numbers)]


def row_of(batch: MLMBatch, i: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """One row: its text in segments, each whole or hidden."""
    length, scored = int(batch.length[i]), int(batch.scored[i])
    shown = batch.ids[i, :length].tolist()
    hidden = dict(zip(batch.positions[i, :scored].tolist(), batch.labels[i, :scored].tolist(), strict=True))
    mask = tokenizer.roles["mask"]
    segments: list[dict[str, str]] = []
    begin = 0
    for at in [*hidden, length]:
        if begin < at:
            segments.append({"text": decode_fragment(tokenizer, shown[begin:at])})
        if at < length:
            was, now = decode_fragment(tokenizer, [hidden[at]]), decode_fragment(tokenizer, [shown[at]])
            kind = "mask" if shown[at] == mask else "other" if shown[at] != hidden[at] else "kept"
            segments.append({"text": was, "hidden": kind} | ({"shown": now} if kind == "other" else {}))
        begin = at + 1
    pieces = int((batch.piece_starts[i] < batch.ids.shape[1]).sum())
    labels = [PAIRS[label] for label in batch.next_sentence[i, :pieces].tolist()]
    segments[0]["text"] = segments[0]["text"].lstrip()
    return {"length": length, "scored": scored, "pieces": pieces, "pairs": labels, "segments": segments}
