"""Masked samples: rows of a plan with some of their ids hidden, by draws, by stored masks, or stored as a whole.

The three are the same, byte for byte, for as many epochs as are stored; after these the stored ones come again.
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
from bertgpt.data.loading.rows import Array, RowBatch, RowBuilder, SpanFile, SpecialIds
from bertgpt.data.tokenizers.tokenizer import Tokenizer

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class MLMBatch:
    """Rows of a plan as a model sees them. The slots for hidden ids beyond `scored` are at position 0, [CLS]."""

    input_ids: Array  # (rows, L)
    lengths: Array  # (rows,): without padding
    segment_starts: Array  # (rows, P): where [CLS] is; L where a row has no more pieces
    sentence_b_starts: Array  # (rows, P): where B begins; the piece's end where it has none
    next_sentence_labels: Array  # (rows, P): 0 next, 1 not next, 2 not scored
    masked_positions: Array  # (rows, K): what is hidden, in order
    labels: Array  # (rows, K): and what is there
    num_targets: Array  # (rows,): how many slots are used


class Masker:
    """Hides ids by draws. Whatever training uses, held-out rows have the usual masks, and always the same."""

    def __init__(self, config: dict[str, Any], split: str, tokenizer: Tokenizer) -> None:
        self.fixed = split != "train"
        shares = ("mlm_probability", "mask_prob", "random_prob")
        self.scheme = MaskingScheme(config["scheme"], **({} if self.fixed else {name: config[name] for name in shares}))
        self.seed = config["seed"]
        used = np.array(sorted(set(tokenizer.vocab.values()) - tokenizer.special_ids), tokenizer.dtype)
        self.vocabulary = MaskingVocab(tokenizer.roles["mask"], used, tokenizer.starts_word)

    def masks(self, frames: RowBatch, samples: Numbers, epochs: Numbers) -> MaskBatch:
        """What is hidden of these rows in these epochs."""
        epochs = np.zeros_like(epochs) if self.fixed else epochs
        rows = (frames.ids, frames.text, frames.begins)
        return draw_masks(*rows, samples, epochs, self.seed, self.scheme, self.vocabulary)


class MLMDataset:
    """Rows of a split, put together from shards when they are asked for."""

    def __init__(
        self,
        spans: Sequence[SpanFile],
        flats: Sequence[NDArray[Any]],
        framer: RowBuilder,
        masker: Masker,
        stored: Sequence[MaskFile] = (),
    ) -> None:
        self.spans, self.flats, self.framer, self.masker, self.stored = spans, flats, framer, masker, stored
        self.first = np.cumsum([0, *map(len, spans)])  # the first sample of each file

    def __len__(self) -> int:
        return int(self.first[-1])

    def batch(self, samples: Numbers, epochs: Numbers) -> MLMBatch:
        """Rows, each with the masks of its epoch."""
        frames, masks = self.parts(samples, epochs)
        at = masks.positions.astype(np.int64)
        scored = masks.scored.sum(axis=1)
        labels = np.where(masks.scored, np.take_along_axis(frames.ids, at, axis=1), 0).astype(frames.ids.dtype)
        np.put_along_axis(frames.ids, at, masks.replacements, axis=1)
        pieces = (frames.length, frames.piece_starts, frames.second_starts, frames.next_sentence)
        return MLMBatch(frames.ids, *pieces, masks.positions, labels, scored)

    def parts(self, samples: Numbers, epochs: Numbers) -> tuple[RowBatch, MaskBatch]:
        """Rows, and what is to be hidden in them."""
        homes = np.searchsorted(self.first, samples, side="right") - 1
        places = samples - self.first[homes]
        rows = list(zip(homes.tolist(), places.tolist(), strict=True))
        frames = self.framer.frames([(self.spans[home], self.flats[home], place) for home, place in rows])
        if self.stored:
            return frames, self.stored_masks(frames, rows, epochs)
        return frames, self.masker.masks(frames, samples, epochs)

    def stored_masks(self, frames: RowBatch, rows: list[tuple[int, int]], epochs: Numbers) -> MaskBatch:
        """Masks that were drawn before."""
        shape = (len(rows), self.masker.scheme.max_predictions(self.framer.length))
        positions = np.zeros(shape, np.uint16)
        replacements = np.repeat(frames.ids[:, :1], shape[1], axis=1)
        scored = np.zeros(shape, np.bool_)
        for i, ((home, place), epoch) in enumerate(zip(rows, epochs.tolist(), strict=True)):
            at, ids = self.stored[home].row(place, epoch)
            used = len(at)
            positions[i, :used], replacements[i, :used] = at, ids
            scored[i, :used] = True
        return MaskBatch(positions, replacements, scored)


def open_mlm_dataset(folder: Path, split: str, shards: Path | None = None) -> MLMDataset:
    """The rows of a split of a plan, in the form in which the plan has them."""
    manifest, tokenizer = open_artifact(folder, "plan")
    config = manifest["config"]
    masker = Masker(config, split, tokenizer)
    pieces = max((file["most_pieces"] for file in manifest["files"] if "most_pieces" in file), default=1)
    spans = split_files(manifest, split, ".spans.arrow")
    base = open_base_shards(folder, manifest, shards)
    masks = [MaskFile(folder / name.replace(".spans.", ".masks.")) for name in spans if config["static"]]
    return MLMDataset(
        [SpanFile(folder / name) for name in spans],
        [TokenFile(base / name.replace(".spans.", ".")).flat for name in spans],
        RowBuilder(config["seq_len"], pieces, SpecialIds.of(tokenizer), tokenizer.dtype),
        masker,
        masks,
    )


def longest_segment(rows: MLMDataset, among: int = 32) -> list[int]:
    """The longest piece of the first rows, its A if it is a pair, as it was before anything was hidden."""
    numbers = np.arange(min(among, len(rows)))
    some = rows.batch(numbers, np.zeros_like(numbers))
    ids = some.input_ids.copy()
    for row, places, labels, scored in zip(ids, some.masked_positions, some.labels, some.num_targets, strict=True):
        row[places[:scored]] = labels[:scored]
    starts, stops = some.segment_starts.astype(np.int64) + 1, some.sentence_b_starts.astype(np.int64) - 1
    row, piece = divmod(int((stops - starts).argmax()), starts.shape[1])
    found: list[int] = ids[row, starts[row, piece] : stops[row, piece]].tolist()
    return found
