"""Masking for MLM: token, whole-word and span masking as a pure function of (seed, epoch, sample, position).

In a row of n maskable tokens round(mlm_probability * n) are masked. They are chosen in units: single tokens (`token`),
words (`whole-word`), or spans of words with geometrically distributed lengths (`span`; Joshi et al., 2019). Each unit
gets a random number, and units are masked in the order of these numbers until the budget is spent. So no random draw
depends on the rest of the batch, and a row has the same masks wherever and whenever it is masked.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertgpt.utils.rng import GOLDEN, hash_key, splitmix64

CHOICE, SPAN, ACTION, RANDOM = range(4)  # independent random numbers of each position, by purpose
PURPOSES = 4
SPAN_END_PROBABILITY = 0.2  # that a span ends after a word: 5 words per span on average
POSITION_BITS = np.uint64(0xFFFF)  # the low bits of a random number hold the position, so that a unit sorts together
NOT_MASKABLE = np.uint64(0xFFFFFFFFFFFFFFFF)  # sorts last


@dataclass(frozen=True)
class MaskingScheme:
    """What is masked, and what replaces masked tokens: [MASK], a random token, or (otherwise) the token itself."""

    unit: str = "token"  # or "whole-word" or "span"
    mlm_probability: float = 0.15
    mask_prob: float = 0.8
    random_prob: float = 0.1
    seed: int = 0

    def max_predictions(self, seq_len: int) -> int:
        """Masked positions per row, at most; BERT's `max_predictions_per_seq`."""
        return int(self.mlm_probability * seq_len + 0.5)


@dataclass(frozen=True)
class MaskingVocab:
    """What masking needs of a tokenizer."""

    mask_id: int
    non_special_ids: NDArray[Any]  # random replacements are drawn from these
    starts_word: NDArray[np.bool_]  # (V,)


@dataclass(frozen=True)
class MaskBatch:
    """Masked positions of rows. Unused slots are at position 0, where they change nothing."""

    positions: NDArray[np.uint16]  # (B, K), ascending
    replacements: NDArray[Any]  # (B, K): the input ids at these positions
    valid: NDArray[np.bool_]  # (B, K): False for unused slots


def draw_masks(
    input_ids: NDArray[Any],  # (B, L)
    maskable: NDArray[np.bool_],  # (B, L): neither special token nor padding
    starts_sentence: NDArray[np.bool_],  # (B, L): first token of a sentence; words do not continue across it
    samples: NDArray[np.int64],  # (B,)
    epochs: NDArray[np.int64],  # (B,)
    scheme: MaskingScheme,
    vocab: MaskingVocab,
) -> MaskBatch:
    """Draw the masked positions of each row and their replacements."""
    length = input_ids.shape[1]
    slots = scheme.max_predictions(length)  # K
    budget = (maskable.sum(axis=1) * scheme.mlm_probability + 0.5).astype(np.int64)  # (B,)
    keys = row_keys(scheme.seed, samples, epochs)
    words = units = None
    if scheme.unit != "token":
        words = units = unit_starts(starts_sentence | vocab.starts_word[input_ids])  # (B, L)
    if scheme.unit == "span" and words is not None:
        units = unit_starts(starts_sentence | starts_span(words, keys))
    index = np.arange(length, dtype=np.uint64)
    draws = random_bits(keys, index, CHOICE) & ~POSITION_BITS  # (B, L)
    if units is None:
        draws |= index
    else:
        draws = np.take_along_axis(draws, units, axis=1)
        draws |= index ^ direction_flip(draws)
    draws[~maskable] = NOT_MASKABLE
    first = np.partition(draws, slots, axis=1)[:, : slots + 1] if slots < length else draws
    first.sort(axis=1)  # (B, K + 1): the tokens to mask, and the first one beyond
    flip = 0 if units is None else direction_flip(first)
    positions = np.where(first == NOT_MASKABLE, 0, first & POSITION_BITS ^ flip).astype(np.int64)
    valid = np.arange(slots) < budget[:, None]
    if words is not None:
        valid &= ~in_truncated_word(first, positions, budget, words)[:, :slots]
    masked = np.where(valid, positions[:, :slots], length)
    masked.sort(axis=1)
    valid = masked < length
    masked[~valid] = 0
    replacements = np.where(valid, replacement_ids(input_ids, masked, keys, scheme, vocab), input_ids[:, :1])
    return MaskBatch(masked.astype(np.uint16), replacements, valid)


def row_keys(seed: int, samples: NDArray[np.int64], epochs: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The random key of each row in its epoch; all its random numbers derive from it."""
    return splitmix64(hash_key(seed, samples.astype(np.uint64)) + epochs.astype(np.uint64) * np.uint64(GOLDEN))


def random_bits(keys: NDArray[np.uint64], positions: NDArray[Any], purpose: int) -> NDArray[np.uint64]:
    """64 random bits for some positions of each row: (L,) or (B, K) to (B, L) or (B, K)."""
    steps = (positions.astype(np.uint64) * np.uint64(PURPOSES) + np.uint64(purpose)) * np.uint64(GOLDEN)
    return splitmix64(keys[:, None] + steps)


def uniform_at(keys: NDArray[np.uint64], positions: NDArray[np.int64], purpose: int) -> NDArray[np.float64]:
    """Uniform random numbers in [0, 1) for some positions of each row, (B, K)."""
    return (random_bits(keys, positions, purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def unit_starts(starts: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The position where the unit of each position starts, (B, L)."""
    return np.maximum.accumulate(np.where(starts, np.arange(starts.shape[1]), 0), axis=1)


def starts_span(words: NDArray[np.int64], keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether a span starts at a position: each word does so with equal probability, so span lengths are geometric."""
    positions = np.arange(words.shape[1])
    starts_word: NDArray[np.bool_] = np.equal(words, positions)
    drawn: NDArray[np.bool_] = random_bits(keys, positions, SPAN) < np.uint64(SPAN_END_PROBABILITY * 2**64)
    return np.bitwise_and(starts_word, drawn)


def direction_flip(draws: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Bits that reverse the order within half of the units, so that a budget that ends within one cuts off its start.

    Otherwise the starts of spans, and so of rows, would be masked more often than the rest.
    """
    return (draws >> np.uint64(16) & np.uint64(1)) * POSITION_BITS


def in_truncated_word(
    first: NDArray[np.uint64], positions: NDArray[np.int64], budget: NDArray[np.int64], words: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether a token to mask belongs to a word that exceeds the budget; that word is not masked at all."""
    beyond = np.minimum(budget, first.shape[1] - 1)[:, None]
    next_draw = np.take_along_axis(first, beyond, axis=1)  # the first one beyond the budget
    word = np.take_along_axis(words, positions, axis=1)  # (B, K + 1)
    same_word: NDArray[np.bool_] = np.equal(word, np.take_along_axis(word, beyond, axis=1))
    truncated: NDArray[np.bool_] = same_word & (next_draw != NOT_MASKABLE) & (first != NOT_MASKABLE)
    return truncated


def replacement_ids(
    input_ids: NDArray[Any],
    positions: NDArray[np.int64],
    keys: NDArray[np.uint64],
    scheme: MaskingScheme,
    vocab: MaskingVocab,
) -> NDArray[Any]:
    """What replaces masked tokens: [MASK], a random token, or the token itself (BERT's 80/10/10), (B, K)."""
    original = np.take_along_axis(input_ids, positions, axis=1)
    action = uniform_at(keys, positions, ACTION)
    drawn = (uniform_at(keys, positions, RANDOM) * len(vocab.non_special_ids)).astype(np.int64)
    other = np.where(action < scheme.mask_prob + scheme.random_prob, vocab.non_special_ids[drawn], original)
    return np.where(action < scheme.mask_prob, vocab.mask_id, other).astype(input_ids.dtype)
