"""Draws are functions of their keys: the same in any process, batch or order, and evenly spread."""

import numpy as np

from bertgpt.utils.rng import stream, uniform


def keys(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_golden_values() -> None:
    """Whatever is drawn anywhere depends on these; a change makes every corpus and every order another one."""
    assert uniform(1337, keys(0, 1, 2**63), 2).tolist() == [
        [0.37012506448150007, 0.8191384412687623],
        [0.14999612756348313, 0.5787248487364897],
        [0.8196855059366546, 0.9600297582355776],
    ]


def test_a_draw_depends_on_nothing_but_its_key_and_number() -> None:
    together = uniform(5, keys(3, 9, 27), 40)
    assert together[1].tolist() == uniform(5, keys(9), 40)[0].tolist()
    assert together[2, 10:].tolist() == uniform(5, keys(27), 30, first=10)[0].tolist()
    numbers = stream(5, 9, first=7, block=4)
    assert [next(numbers) for _ in range(30)] == together[1, 7:37].tolist()


def test_draws_are_even_and_unrelated() -> None:
    drawn = uniform(0, np.arange(2000, dtype=np.uint64), 50)
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    counts = np.histogram(drawn, bins=100, range=(0, 1))[0]
    chi_square = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi_square < 160  # 99 degrees of freedom: more in 1 of 10 000 cases
    for other in (
        uniform(1, np.arange(2000, dtype=np.uint64), 50),
        np.roll(drawn, 1, axis=0),
        np.roll(drawn, 1, axis=1),
    ):
        assert abs(np.corrcoef(drawn.ravel(), other.ravel())[0, 1]) < 0.015
