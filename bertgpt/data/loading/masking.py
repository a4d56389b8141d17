"""Masks: which positions of a row are hidden, and by what, as a pure function of (seed, epoch, sample, position).

A row of n ordinary ids has round(rate * n) of them scored. They are chosen by units: single ids (`token`), words
(`whole-word`), or runs of words whose lengths are geometric (`span`; Joshi et al., 2019). Every unit has a draw, and
units are taken in the order of their draws until the budget is spent. So no draw depends on what else is in a batch,
and the same row has the same masks wherever, and however often, it is made.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertgpt.utils.rng import GOLDEN, hash_key, splitmix64

CHOICE, SPAN, ACTION, RANDOM = range(4)  # purposes of draws
PURPOSES = 4
SPAN_ENDS = 0.2  # how likely a span ends after a word: spans are 5 words on average
POSITIONS = np.uint64(0xFFFF)  # the low bits of a draw make room for the position, so that units stay together
NOT_MASKABLE = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class MaskingScheme:
    """How rows are masked."""

    units: str = "token"  # or "whole-word" or "span"
    mlm_probability: float = 0.15
    mask_prob: float = 0.8
    random_prob: float = 0.1

    def max_predictions(self, length: int) -> int:
        """The masked positions that a row has room for."""
        return int(self.mlm_probability * length + 0.5)


@dataclass(frozen=True)
class MaskingVocab:
    """What masking knows of a tokenizer."""

    mask: int
    ordinary: NDArray[Any]  # ids that stand for text
    starts_word: NDArray[np.bool_]  # by id


@dataclass(frozen=True)
class MaskBatch:
    """What is hidden in some rows. Slots that a row does not need are at position 0, where they change nothing."""

    positions: NDArray[np.uint16]  # (rows, K), in order
    replacements: NDArray[Any]  # (rows, K)
    scored: NDArray[np.bool_]  # (rows, K)


def draw_masks(
    ids: NDArray[Any],  # (rows, L)
    text: NDArray[np.bool_],  # (rows, L): an ordinary id, which may be hidden
    begins: NDArray[np.bool_],  # (rows, L): the first of a stretch of text; no word goes on across it
    samples: NDArray[np.int64],  # (rows,)
    epochs: NDArray[np.int64],  # (rows,)
    seed: int,
    scheme: MaskingScheme,
    vocabulary: MaskingVocab,
) -> MaskBatch:
    """Hide a share of the ids of each row."""
    length = ids.shape[1]
    slots = scheme.max_predictions(length)
    budget = (text.sum(axis=1) * scheme.mlm_probability + 0.5).astype(np.int64)  # (rows,)
    keys = row_keys(seed, samples, epochs)
    words = units = None
    if scheme.units != "token":
        words = units = unit_starts(begins | vocabulary.starts_word[ids])  # (rows, L)
    if scheme.units == "span" and words is not None:
        units = unit_starts(begins | span_begins(words, keys))
    places = np.arange(length, dtype=np.uint64)
    draws = per_position(keys, length, CHOICE) & ~POSITIONS  # (rows, L)
    if units is None:
        draws |= places
    else:
        draws = np.take_along_axis(draws, units, axis=1)
        draws |= places ^ direction_flip(draws)
    draws[~text] = NOT_MASKABLE
    first = np.partition(draws, slots, axis=1)[:, : slots + 1] if slots < length else draws
    first.sort(axis=1)  # (rows, K + 1): the ids to hide, and the one after them
    positions = np.where(first == NOT_MASKABLE, 0, first & POSITIONS ^ (0 if units is None else direction_flip(first)))
    positions = positions.astype(np.int64)
    scored = np.arange(slots) < budget[:, None]
    if words is not None:
        scored &= ~in_truncated_word(first, positions, budget, words)[:, :slots]
    at = np.where(scored, positions[:, :slots], length)
    at.sort(axis=1)
    scored = at < length
    at[~scored] = 0
    put = np.where(scored, replacement_ids(ids, at, keys, scheme, vocabulary), ids[:, :1])
    return MaskBatch(at.astype(np.uint16), put, scored)


def row_keys(seed: int, samples: NDArray[np.int64], epochs: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One word for each row and epoch, from which its draws are made."""
    return splitmix64(hash_key(seed, samples.astype(np.uint64)) + epochs.astype(np.uint64) * np.uint64(GOLDEN))


def per_position(keys: NDArray[np.uint64], length: int, purpose: int) -> NDArray[np.uint64]:
    """One draw for each position of each row, (rows, L)."""
    steps = (np.arange(length, dtype=np.uint64) * np.uint64(PURPOSES) + np.uint64(purpose)) * np.uint64(GOLDEN)
    return splitmix64(keys[:, None] + steps)


def at_positions(keys: NDArray[np.uint64], at: NDArray[np.int64], purpose: int) -> NDArray[np.float64]:
    """The same for some positions only, in [0, 1)."""
    steps = (at.astype(np.uint64) * np.uint64(PURPOSES) + np.uint64(purpose)) * np.uint64(GOLDEN)
    return (splitmix64(keys[:, None] + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def unit_starts(begins: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where the unit begins to which each position belongs, (rows, L)."""
    return np.maximum.accumulate(np.where(begins, np.arange(begins.shape[1]), 0), axis=1)


def span_begins(words: NDArray[np.int64], keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Words that begin a span: each does with the same chance, so lengths of spans are geometric."""
    length = words.shape[1]
    first: NDArray[np.bool_] = np.equal(words, np.arange(length))
    drawn: NDArray[np.bool_] = per_position(keys, length, SPAN) < np.uint64(SPAN_ENDS * 2**64)
    return np.bitwise_and(first, drawn)


def direction_flip(draws: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What turns the order of positions within a unit: half of them are hidden from their end on, as the budget goes.

    Otherwise the beginnings of spans, and so of rows, would be hidden more often than the rest.
    """
    return (draws >> np.uint64(16) & np.uint64(1)) * POSITIONS


def in_truncated_word(
    first: NDArray[np.uint64], positions: NDArray[np.int64], budget: NDArray[np.int64], words: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which of the ids to hide belong to a word that the budget would cut in two; it is left out whole."""
    after = np.minimum(budget, first.shape[1] - 1)[:, None]
    next_id = np.take_along_axis(first, after, axis=1)  # the first beyond the budget
    word = np.take_along_axis(words, positions, axis=1)  # (rows, K + 1)
    same_word: NDArray[np.bool_] = np.equal(word, np.take_along_axis(word, after, axis=1))
    cut: NDArray[np.bool_] = same_word & (next_id != NOT_MASKABLE) & (first != NOT_MASKABLE)
    return cut


def replacement_ids(
    ids: NDArray[Any], at: NDArray[np.int64], keys: NDArray[np.uint64], scheme: MaskingScheme, vocabulary: MaskingVocab
) -> NDArray[Any]:
    """What stands in the place of hidden ids: mostly the mask, at times another id, at times the id itself."""
    kept = np.take_along_axis(ids, at, axis=1)  # (rows, K)
    action = at_positions(keys, at, ACTION)
    drawn = (at_positions(keys, at, RANDOM) * len(vocabulary.ordinary)).astype(np.int64)
    other = np.where(action < scheme.mask_prob + scheme.random_prob, vocabulary.ordinary[drawn], kept)
    return np.where(action < scheme.mask_prob, vocabulary.mask, other).astype(ids.dtype)
