"""Masking: budgets, replacement shares, units, and reproducibility from (seed, epoch, sample)."""

import numpy as np
import pytest

from bertgpt.data.loading.masking import MaskBatch, MaskingScheme, MaskingVocab, draw_masks

VOCAB_SIZE, MASK, SPECIALS = 1000, 4, 6
STARTS_WORD = np.arange(VOCAB_SIZE) % 3 != 0  # every third token continues a word
VOCAB = MaskingVocab(MASK, np.arange(SPECIALS, VOCAB_SIZE, dtype=np.uint16), STARTS_WORD)
UNITS = ["token", "whole-word", "span"]


def random_rows(count: int, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of two sentences with special tokens around them, and some padding."""
    rng = np.random.default_rng(seed)
    input_ids = rng.integers(SPECIALS, VOCAB_SIZE, (count, length)).astype(np.uint16)
    maskable = np.ones((count, length), np.bool_)
    starts_sentence = np.zeros((count, length), np.bool_)
    for i in range(count):
        middle, end = rng.integers(5, length // 2), rng.integers(length // 2 + 5, length + 1)
        for position in (0, middle, middle + 1, end - 1):
            input_ids[i, position], maskable[i, position] = 2, False
        input_ids[i, end:], maskable[i, end:] = 0, False
        starts_sentence[i, [1, middle + 2]] = True
    return input_ids, maskable, starts_sentence


def masked_rows(
    unit: str, count: int = 500, length: int = 128, epoch: int = 0, **scheme: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, MaskBatch]:
    rows = random_rows(count, length)
    scheme = MaskingScheme(unit, **({"seed": 7} | scheme))
    return *rows, draw_masks(*rows, np.arange(count), np.full(count, epoch), scheme, VOCAB)


def flat(masks: MaskBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, position and replacement of all masked tokens."""
    row, slot = np.nonzero(masks.valid)
    return row, masks.positions[row, slot].astype(int), masks.replacements[row, slot]


@pytest.mark.parametrize("unit", UNITS)
def test_only_text_is_masked_and_each_position_once(unit: str) -> None:
    _, maskable, _, masks = masked_rows(unit)
    row, position, _ = flat(masks)
    assert maskable[row, position].all()
    assert len(set(zip(row.tolist(), position.tolist(), strict=True))) == len(row)
    valid = masks.valid[:, 1:]
    assert (np.diff(masks.positions.astype(int), axis=1)[valid] > 0).all()


def test_token_masking_spends_the_exact_budget() -> None:
    _, maskable, _, masks = masked_rows("token")
    assert masks.positions.shape == (500, 19)  # round(0.15 * 128)
    assert (masks.valid.sum(axis=1) == np.floor(0.15 * maskable.sum(axis=1) + 0.5)).all()


@pytest.mark.parametrize("unit", ["whole-word", "span"])
def test_whole_words_are_masked_within_the_budget(unit: str) -> None:
    input_ids, maskable, starts_sentence, masks = masked_rows(unit, count=2000)
    budget = np.floor(0.15 * maskable.sum(axis=1) + 0.5)
    num_masked = masks.valid.sum(axis=1)
    starts = (starts_sentence | STARTS_WORD[input_ids]) & maskable
    word = np.cumsum(starts | ~maskable, axis=1)  # a number for each word of a row
    for i in range(len(input_ids)):
        is_masked = np.zeros(input_ids.shape[1], np.bool_)
        is_masked[masks.positions[i, masks.valid[i]]] = True
        of_words = [is_masked[word[i] == w] for w in set(word[i][is_masked].tolist())]
        assert all(of_word.all() for of_word in of_words)
        longest = max(int((word[i] == w).sum()) for w in set(word[i][maskable[i]].tolist()))
        assert budget[i] - longest < num_masked[i] <= budget[i]


def test_spans_are_runs_of_words() -> None:
    """Neighbors are masked together far more often than with whole-word masking."""

    def adjacent(unit: str) -> float:
        row, position, _ = flat(masked_rows(unit, count=1000)[3])
        return float(np.mean(np.diff(position)[np.diff(row) == 0] == 1))

    assert adjacent("span") > 0.7 > 0.5 > adjacent("whole-word") > adjacent("token")


@pytest.mark.parametrize("unit", UNITS)
def test_replacements_are_80_10_10(unit: str) -> None:
    """Chi-square test over 80,000 masked tokens: [MASK], random and kept as 80 : 10 : 10; random ones uniform."""
    input_ids, _, _, masks = masked_rows(unit, count=6000)
    row, position, replacement = flat(masks)
    original = input_ids[row, position]
    n = len(replacement)
    assert n > 80_000
    is_random = (replacement != MASK) & (replacement != original)
    chance = 1 / len(VOCAB.non_special_ids)  # that the random token is the original one
    expected = np.array([0.8, 0.1 * (1 - chance), 0.1 + 0.1 * chance]) * n
    counts = np.array([(replacement == MASK).sum(), is_random.sum(), (replacement == original).sum()])
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # p = 0.001
    frequencies = np.bincount(replacement[is_random], minlength=VOCAB_SIZE)
    assert frequencies[:SPECIALS].sum() == 0
    of_each = frequencies[SPECIALS:]
    assert ((of_each - of_each.mean()) ** 2 / of_each.mean()).sum() < len(of_each) + 4 * np.sqrt(2 * len(of_each))


@pytest.mark.parametrize("unit", UNITS)
def test_every_position_is_masked_equally_often(unit: str) -> None:
    count, length = 4000, 64
    input_ids = np.full((count, length), 7, np.uint16)  # every token starts a word
    maskable = np.ones_like(input_ids, np.bool_)
    starts_sentence = np.zeros_like(maskable)
    starts_sentence[:, 0] = True
    scheme = MaskingScheme(unit, seed=1)
    masks = draw_masks(input_ids, maskable, starts_sentence, np.arange(count), np.zeros(count, int), scheme, VOCAB)
    rate = np.bincount(masks.positions[masks.valid], minlength=length) / count
    assert abs(rate.mean() - 10 / 64) < 1e-9
    # spans are shorter at the edges of a row, so those positions are masked a little more often
    assert (abs(rate - rate.mean()) < 0.045).all()


@pytest.mark.parametrize("unit", UNITS)
def test_masks_depend_only_on_seed_epoch_and_row(unit: str) -> None:
    *rows, masks = masked_rows(unit)
    subset = np.array([400, 3, 77])
    subset_rows = [array[subset] for array in rows]
    scheme = MaskingScheme(unit, seed=7)
    alone = draw_masks(*subset_rows, subset, np.zeros(3, int), scheme, VOCAB)
    assert np.array_equal(alone.positions, masks.positions[subset])
    assert np.array_equal(alone.replacements, masks.replacements[subset])
    for other in (masked_rows(unit, epoch=1)[3], masked_rows(unit, seed=8)[3]):
        assert (other.positions != masks.positions).mean() > 0.5
    mixed = draw_masks(*subset_rows, subset, np.array([0, 1, 0]), scheme, VOCAB)
    assert np.array_equal(mixed.positions[[0, 2]], masks.positions[subset[[0, 2]]])
    assert np.array_equal(mixed.positions[1], masked_rows(unit, epoch=1)[3].positions[3])


def test_golden_masks() -> None:
    """Existing mask plans keep their masks."""
    masks = {unit: masked_rows(unit, count=2, length=32)[3] for unit in UNITS}
    assert {unit: of_unit.positions.tolist() for unit, of_unit in masks.items()} == GOLDEN_POSITIONS
    assert {unit: of_unit.replacements.tolist() for unit, of_unit in masks.items()} == GOLDEN_REPLACEMENTS


@pytest.mark.parametrize("unit", UNITS)
def test_rows_without_text_have_no_masks(unit: str) -> None:
    input_ids = np.zeros((2, 16), np.uint16)
    none = np.zeros((2, 16), np.bool_)
    masks = draw_masks(input_ids, none, none, np.arange(2), np.zeros(2, int), MaskingScheme(unit, seed=1), VOCAB)
    assert not masks.valid.any()
    assert not masks.positions.any()


GOLDEN_POSITIONS = {
    "token": [[6, 9, 20, 0, 0], [3, 4, 17, 21, 0]],
    "whole-word": [[6, 20, 0, 0, 0], [4, 5, 0, 0, 0]],
    "span": [[9, 10, 20, 0, 0], [1, 2, 3, 22, 0]],
}
GOLDEN_REPLACEMENTS = {
    "token": [[4, 4, 4, 2, 2], [4, 461, 4, 4, 2]],
    "whole-word": [[4, 4, 2, 2, 2], [461, 4, 2, 2, 2]],
    "span": [[4, 4, 4, 2, 2], [4, 27, 4, 806, 2]],
}
