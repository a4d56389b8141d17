"""Counter-based random numbers: functions of seed and key alone, uniform and independent."""

import numpy as np

from bertgpt.utils.rng import stream, uniform


def keys(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_golden_values() -> None:
    """Everything random depends on these; a change would change every corpus, order and mask."""
    assert uniform(1337, keys(0, 1, 2**63), 2).tolist() == [
        [0.37012506448150007, 0.8191384412687623],
        [0.14999612756348313, 0.5787248487364897],
        [0.8196855059366546, 0.9600297582355776],
    ]


def test_numbers_depend_on_key_and_index_only() -> None:
    batch = uniform(5, keys(3, 9, 27), 40)
    assert batch[1].tolist() == uniform(5, keys(9), 40)[0].tolist()
    assert batch[2, 10:].tolist() == uniform(5, keys(27), 30, first=10)[0].tolist()
    numbers = stream(5, 9, first=7, block=4)
    assert [next(numbers) for _ in range(30)] == batch[1, 7:37].tolist()


def test_numbers_are_uniform_and_independent() -> None:
    values = uniform(0, np.arange(2000, dtype=np.uint64), 50)
    assert values.min() >= 0.0
    assert values.max() < 1.0
    counts = np.histogram(values, bins=100, range=(0, 1))[0]
    chi_square = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi_square < 160  # 99 degrees of freedom: exceeded with probability 1e-4
    for other in (
        uniform(1, np.arange(2000, dtype=np.uint64), 50),
        np.roll(values, 1, axis=0),
        np.roll(values, 1, axis=1),
    ):
        assert abs(np.corrcoef(values.ravel(), other.ravel())[0, 1]) < 0.015
