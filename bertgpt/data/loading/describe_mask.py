"""Rows of a mask plan as readable text: masked tokens, their replacements, and next-sentence labels."""

from pathlib import Path
from typing import Any

import numpy as np

from bertgpt.data.loading.mlm import MLMBatch, open_mlm_dataset
from bertgpt.data.tokenizers.detokenize import decode_fragment
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.utils.errors import BertGPTError

NEXT_SENTENCE_NAMES = ("next", "not next", None)  # by label; None: no sentence B


def describe_mask_rows(folder: Path, tokenizer: Tokenizer, split: str, start: int, count: int) -> list[dict[str, Any]]:
    """Rows `start` to `start + count` of a split, with the masks of the first epoch."""
    dataset = open_mlm_dataset(folder, split)
    if start >= len(dataset):
        cause = f"rows are numbered 0 to {len(dataset) - 1}"
        raise BertGPTError("BG215", f"no such row in {split}: {start}", path=str(folder), cause=cause)
    indices = np.arange(start, min(start + count, len(dataset)))
    if not len(indices):
        return []
    batch = dataset.batch(indices, np.zeros_like(indices))
    return [
        {"number": index, "split": split} | describe_row(batch, i, tokenizer)
        for i, index in enumerate(indices.tolist())
    ]


def describe_row(batch: MLMBatch, i: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """Row i of a batch. Its text is a list of spans; each masked token is one, with what replaces it."""
    length, num_targets = int(batch.lengths[i]), int(batch.num_targets[i])
    input_ids = batch.input_ids[i, :length].tolist()
    positions, labels = batch.masked_positions[i, :num_targets].tolist(), batch.labels[i, :num_targets].tolist()
    spans: list[dict[str, str]] = []
    begin = 0
    for position, label in zip(positions, labels, strict=True):
        if begin < position:
            spans.append({"text": decode_fragment(tokenizer, input_ids[begin:position])})
        spans.append(masked_span(tokenizer, label, input_ids[position]))
        begin = position + 1
    if begin < length:
        spans.append({"text": decode_fragment(tokenizer, input_ids[begin:])})
    spans[0]["text"] = spans[0]["text"].lstrip()
    num_segments = int((batch.segment_starts[i] < batch.input_ids.shape[1]).sum())
    next_sentence = [NEXT_SENTENCE_NAMES[label] for label in batch.next_sentence_labels[i, :num_segments].tolist()]
    counts = {"length": length, "num_targets": num_targets, "num_segments": num_segments}
    return counts | {"next_sentence": next_sentence, "spans": spans}


def masked_span(tokenizer: Tokenizer, label: int, input_id: int) -> dict[str, str]:
    """A masked token: its original text, and whether [MASK], a random token or the token itself replaces it."""
    text = decode_fragment(tokenizer, [label])
    if input_id == tokenizer.roles["mask"]:
        return {"text": text, "masked": "mask"}
    if input_id == label:
        return {"text": text, "masked": "kept"}
    return {"text": text, "masked": "random", "replacement": decode_fragment(tokenizer, [input_id])}
