"""What is hidden: how much of it, what stands for it, and that it depends on nothing else."""

import numpy as np
import pytest

from bertgpt.data.loading.masking import MaskBatch, MaskingScheme, MaskingVocab, draw_masks

SIZE, MASK, SPECIALS = 1000, 4, 6
STARTS = np.arange(SIZE) % 3 != 0  # every third id goes on with a word
VOCABULARY = MaskingVocab(MASK, np.arange(SPECIALS, SIZE, dtype=np.uint16), STARTS)
UNITS = ["token", "whole-word", "span"]


def rows(count: int, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of two pieces with specials around them, and some padding."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(SPECIALS, SIZE, (count, length)).astype(np.uint16)
    text = np.ones((count, length), np.bool_)
    begins = np.zeros((count, length), np.bool_)
    for i in range(count):
        middle, end = draw.integers(5, length // 2), draw.integers(length // 2 + 5, length + 1)
        for at in (0, middle, middle + 1, end - 1):
            ids[i, at], text[i, at] = 2, False
        ids[i, end:], text[i, end:] = 0, False
        begins[i, [1, middle + 2]] = True
    return ids, text, begins


def hidden(units: str, count: int = 500, length: int = 128, epoch: int = 0, seed: int = 7, **scheme: float) -> tuple:
    ids, text, begins = rows(count, length)
    samples = np.arange(count)
    made = draw_masks(
        ids, text, begins, samples, np.full(count, epoch), seed, MaskingScheme(units, **scheme), VOCABULARY
    )
    return ids, text, begins, made


def flat(ids: np.ndarray, made: MaskBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, position and what was put there, of what is scored."""
    row, slot = np.nonzero(made.scored)
    return row, made.positions[row, slot].astype(int), made.replacements[row, slot]


@pytest.mark.parametrize("units", UNITS)
def test_only_text_is_hidden_and_each_position_once(units: str) -> None:
    ids, text, _, made = hidden(units)
    row, at, _ = flat(ids, made)
    assert text[row, at].all()
    assert len(set(zip(row.tolist(), at.tolist(), strict=True))) == len(row)
    inside = made.scored[:, 1:]
    assert (np.diff(made.positions.astype(int), axis=1)[inside] > 0).all()


def test_a_row_has_its_share_to_the_id() -> None:
    _, text, _, made = hidden("token")
    assert made.positions.shape == (500, 19)  # round(0.15 * 128)
    assert (made.scored.sum(axis=1) == np.floor(0.15 * text.sum(axis=1) + 0.5)).all()


@pytest.mark.parametrize("units", ["whole-word", "span"])
def test_words_are_hidden_whole_and_within_the_budget(units: str) -> None:
    ids, text, begins, made = hidden(units, count=2000)
    budget = np.floor(0.15 * text.sum(axis=1) + 0.5)
    scored = made.scored.sum(axis=1)
    starts = (begins | STARTS[ids]) & text
    word = np.cumsum(starts | ~text, axis=1)  # a number for each word of a row
    for i in range(len(ids)):
        chosen = np.zeros(ids.shape[1], np.bool_)
        chosen[made.positions[i, made.scored[i]]] = True
        of_word = [chosen[word[i] == w] for w in set(word[i][chosen].tolist())]
        assert all(each.all() for each in of_word)
        longest = max(int((word[i] == w).sum()) for w in set(word[i][text[i]].tolist()))
        assert budget[i] - longest < scored[i] <= budget[i]


def test_spans_are_runs_of_words() -> None:
    """Neighbours are hidden together far more often than by single words."""

    def joined(units: str) -> float:
        ids, _, _, made = hidden(units, count=1000)
        row, at, _ = flat(ids, made)
        return float(np.mean(np.diff(at)[np.diff(row) == 0] == 1))

    assert joined("span") > 0.7 > 0.5 > joined("whole-word") > joined("token")


@pytest.mark.parametrize("units", UNITS)
def test_shares_of_what_is_put_there(units: str) -> None:
    """By chi-square over a hundred thousand hidden ids: mask, other, same as 80 : 10 : 10; others all alike."""
    ids, _, _, made = hidden(units, count=6000)
    row, at, put = flat(ids, made)
    old = ids[row, at]
    n = len(put)
    assert n > 80_000
    other = (put != MASK) & (put != old)
    chance = 1 / len(VOCABULARY.ordinary)  # another id may be drawn that is the same
    expected = np.array([0.8, 0.1 * (1 - chance), 0.1 + 0.1 * chance]) * n
    counts = np.array([(put == MASK).sum(), other.sum(), (put == old).sum()])
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # one in a thousand
    drawn = np.bincount(put[other], minlength=SIZE)
    assert drawn[:SPECIALS].sum() == 0
    each = drawn[SPECIALS:]
    assert ((each - each.mean()) ** 2 / each.mean()).sum() < len(each) + 4 * np.sqrt(2 * len(each))


@pytest.mark.parametrize("units", UNITS)
def test_every_position_is_hidden_equally_often(units: str) -> None:
    count, length = 4000, 64
    ids = np.full((count, length), 7, np.uint16)  # every id begins a word
    text = np.ones_like(ids, np.bool_)
    begins = np.zeros_like(text)
    begins[:, 0] = True
    made = draw_masks(ids, text, begins, np.arange(count), np.zeros(count, int), 1, MaskingScheme(units), VOCABULARY)
    often = np.bincount(made.positions[made.scored], minlength=length) / count
    assert abs(often.mean() - 10 / 64) < 1e-9
    assert (
        abs(often - often.mean()) < 0.045
    ).all()  # spans are shorter at the edges, so those are hidden a bit more often


@pytest.mark.parametrize("units", UNITS)
def test_masks_depend_on_seed_epoch_and_row_alone(units: str) -> None:
    ids, text, begins, made = hidden(units)
    some = np.array([400, 3, 77])
    alone = draw_masks(ids[some], text[some], begins[some], some, np.zeros(3, int), 7, MaskingScheme(units), VOCABULARY)
    assert np.array_equal(alone.positions, made.positions[some])
    assert np.array_equal(alone.replacements, made.replacements[some])
    for other in (hidden(units, epoch=1)[3], hidden(units, seed=8)[3]):
        assert (other.positions != made.positions).mean() > 0.5
    mixed = draw_masks(
        ids[some], text[some], begins[some], some, np.array([0, 1, 0]), 7, MaskingScheme(units), VOCABULARY
    )
    assert np.array_equal(mixed.positions[[0, 2]], made.positions[some[[0, 2]]])
    assert np.array_equal(mixed.positions[1], hidden(units, epoch=1)[3].positions[3])


def test_golden_draws() -> None:
    """Plans that were made stay what they are."""
    found = {units: hidden(units, count=2, length=32)[3] for units in UNITS}
    assert {units: made.positions.tolist() for units, made in found.items()} == GOLDEN_POSITIONS
    assert {units: made.replacements.tolist() for units, made in found.items()} == GOLDEN_REPLACEMENTS


def test_rows_without_text() -> None:
    ids = np.zeros((2, 16), np.uint16)
    none = np.zeros((2, 16), np.bool_)
    for units in UNITS:
        made = draw_masks(ids, none, none, np.arange(2), np.zeros(2, int), 1, MaskingScheme(units), VOCABULARY)
        assert not made.scored.any()
        assert not made.positions.any()


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
