"""Masked language model dataset: rows of a mask plan, masked dynamically (when read) or statically (stored masks).

Both give the same batches, byte for byte, for as many epochs as are stored; after these the stored masks repeat.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertgpt.data.format import TokenFile
from bertgpt.data.loading.mask_file import MaskFile
from bertgpt.data.loading.masking import MaskBatch, MaskingScheme, MaskingVocab, draw_masks
from bertgpt.data.loading.open import open_artifact, open_base_shards, split_files
from bertgpt.data.loading.rows import Array, RowBatch, RowBuilder, SpanFile
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.utils.errors import BertGPTError

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class MLMBatch:
    """Masked rows of L tokens, each of up to P segments `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`, and padding.

    K is the most masked positions of a row (BERT's `max_predictions_per_seq`). Unused slots are at position 0, [CLS].
    """

    input_ids: Array  # (B, L)
    lengths: Array  # (B,): without padding
    segment_starts: Array  # (B, P): position of [CLS]; L for segments that the row does not have
    sentence_b_starts: Array  # (B, P): where sentence B starts; the end of the segment if it has none
    next_sentence_labels: Array  # (B, P): 0 next, 1 not next, 2 unpaired
    masked_positions: Array  # (B, K), ascending; BERT's `masked_lm_positions`
    labels: Array  # (B, K): the original ids at these positions; BERT's `masked_lm_ids`
    num_targets: Array  # (B,): how many of the K slots are used


class Masker:
    """Dynamic masking of a split. Training rows get new masks in each epoch; validation rows always the same ones.

    Validation uses the default probabilities whatever training uses, so its loss is comparable between runs.
    """

    def __init__(self, config: dict[str, Any], split: str, tokenizer: Tokenizer) -> None:
        self.fixed = split != "train"
        names = ("mlm_probability", "mask_prob", "random_prob")
        probabilities = {} if self.fixed else {name: config[name] for name in names}
        self.scheme = MaskingScheme(config["scheme"], seed=config["seed"], **probabilities)
        non_special = np.array(sorted(set(tokenizer.vocab.values()) - tokenizer.special_ids), tokenizer.dtype)
        self.vocab = MaskingVocab(tokenizer.roles["mask"], non_special, tokenizer.starts_word)

    def masks(self, rows: RowBatch, samples: Indices, epochs: Indices) -> MaskBatch:
        """The masks of these rows in these epochs."""
        epochs = np.zeros_like(epochs) if self.fixed else epochs
        return draw_masks(rows.input_ids, rows.maskable, rows.starts_sentence, samples, epochs, self.scheme, self.vocab)


class MLMDataset:
    """The rows of a split, built from the memory-mapped base shards when they are read."""

    def __init__(
        self,
        spans: Sequence[SpanFile],
        tokens: Sequence[NDArray[Any]],  # the token stream of each shard
        row_builder: RowBuilder,
        masker: Masker,
        static_masks: Sequence[MaskFile] = (),
    ) -> None:
        self.spans, self.tokens, self.row_builder = spans, tokens, row_builder
        self.masker, self.static_masks = masker, static_masks
        self.file_offsets = np.cumsum([0, *map(len, spans)])  # the index of the first row of each file

    def __len__(self) -> int:
        return int(self.file_offsets[-1])

    def batch(self, indices: Indices, epochs: Indices) -> MLMBatch:
        """The rows of these indices, each with the masks of its epoch."""
        files = np.searchsorted(self.file_offsets, indices, side="right") - 1
        offsets = indices - self.file_offsets[files]
        numbers = list(zip(files.tolist(), offsets.tolist(), strict=True))
        try:
            rows = self.row_builder.build([(self.spans[file], self.tokens[file], offset) for file, offset in numbers])
            if self.static_masks:
                masks = self.read_static_masks(rows, numbers, epochs)
            else:
                masks = self.masker.masks(rows, indices, epochs)
            return masked_batch(rows, masks)
        except (IndexError, ValueError) as error:  # of numpy: spans or masks beyond the row
            hint = "make it again: bertgpt mask ... --overwrite"
            raise BertGPTError("BG304", "mask plan does not fit its shards", cause=str(error), hint=hint) from None

    def read_static_masks(self, rows: RowBatch, numbers: list[tuple[int, int]], epochs: Indices) -> MaskBatch:
        """Stored masks of rows, given by file and row within it, padded to K slots."""
        shape = (len(numbers), self.masker.scheme.max_predictions(self.row_builder.seq_len))
        positions = np.zeros(shape, np.uint16)
        replacements = np.repeat(rows.input_ids[:, :1], shape[1], axis=1)
        valid = np.zeros(shape, np.bool_)
        for i, ((file, row), epoch) in enumerate(zip(numbers, epochs.tolist(), strict=True)):
            stored_positions, stored_replacements = self.static_masks[file].row(row, epoch)
            used = slice(len(stored_positions))
            positions[i, used], replacements[i, used], valid[i, used] = stored_positions, stored_replacements, True
        return MaskBatch(positions, replacements, valid)


def masked_batch(rows: RowBatch, masks: MaskBatch) -> MLMBatch:
    """Replace the masked tokens, in place, and keep the original ones as labels."""
    positions = masks.positions.astype(np.int64)
    original = np.take_along_axis(rows.input_ids, positions, axis=1)
    np.put_along_axis(rows.input_ids, positions, masks.replacements, axis=1)
    return MLMBatch(
        input_ids=rows.input_ids,
        lengths=rows.lengths,
        segment_starts=rows.segment_starts,
        sentence_b_starts=rows.sentence_b_starts,
        next_sentence_labels=rows.next_sentence_labels,
        masked_positions=masks.positions,
        labels=np.where(masks.valid, original, 0).astype(rows.input_ids.dtype),
        num_targets=masks.valid.sum(axis=1),
    )


def open_mlm_dataset(folder: Path, split: str, shards: Path | None = None) -> MLMDataset:
    """Open a split of a mask plan, over the base shards it was made for, or over `shards` if they have moved."""
    manifest, tokenizer = open_artifact(folder, "mask_plan")
    config = manifest["config"]
    names = split_files(manifest, split, ".spans.arrow")
    max_segments = max(file["max_segments"] for file in manifest["files"] if file["path"].endswith(".spans.arrow"))
    base = open_base_shards(folder, manifest, shards)
    return MLMDataset(
        [SpanFile(folder / name) for name in names],
        [TokenFile(base / name.replace(".spans.", ".")).flat for name in names],
        RowBuilder(config["seq_len"], max_segments, tokenizer),
        Masker(config, split, tokenizer),
        [MaskFile(folder / name.replace(".spans.", ".masks.")) for name in names if config["static"]],
    )


def longest_segment(dataset: MLMDataset, max_rows: int = 32) -> list[int]:
    """The tokens of the longest segment of the first rows, unmasked; of a sentence pair only sentence A."""
    indices = np.arange(min(max_rows, len(dataset)))
    batch = dataset.batch(indices, np.zeros_like(indices))
    ids = unmasked(batch)
    starts, stops = batch.segment_starts.astype(np.int64) + 1, batch.sentence_b_starts.astype(np.int64) - 1
    row, segment = divmod(int((stops - starts).argmax()), starts.shape[1])
    tokens: list[int] = ids[row, starts[row, segment] : stops[row, segment]].tolist()
    return tokens


def unmasked(batch: MLMBatch) -> NDArray[Any]:
    """The original ids of the rows, (B, L)."""
    ids: NDArray[Any] = batch.input_ids.copy()
    for row, positions, labels, n in zip(ids, batch.masked_positions, batch.labels, batch.num_targets, strict=True):
        row[positions[:n]] = labels[:n]
    return ids
