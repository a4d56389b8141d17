"""Confidence intervals and significance tests."""

import numpy as np
import pytest

from bertgpt.evals.intervals import (
    bootstrap,
    bootstrap_mean,
    bootstrap_ratio,
    macro_mean,
    mcnemar,
    paired_bootstrap,
    wilson,
)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (758, 872, 0.8453, 0.8900),
        (0.5, 1, 0.0546, 0.9454),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(correct: float, n: int, low: float, high: float) -> None:
    """Values of the formula, computed elsewhere."""
    assert wilson(correct, n) == pytest.approx((low, high), abs=2e-4)


def test_bootstrap_coverage() -> None:
    """About 95 of 100 intervals cover the mean of a known distribution; and the same interval each time."""
    draws = np.random.Generator(np.random.Philox(1))
    inside = 0
    for _ in range(100):
        low, high = bootstrap_mean(draws.exponential(1.0, 80).tolist())
        inside += low <= 1.0 <= high
    assert 86 <= inside <= 99
    assert bootstrap_mean([1.0, 2.0, 4.0]) == bootstrap_mean([1.0, 2.0, 4.0])
    assert bootstrap_ratio([2.0, 4.0], [1.0, 2.0]) == (2.0, 2.0)
    assert bootstrap(5, lambda chosen: np.full(len(chosen), float(chosen.shape[1]))) == (5.0, 5.0)


def test_interval_of_a_macro_mean() -> None:
    """It covers the true mean of ten groups of five items about 95 times of 100, and has a width at 100 %."""
    draws = np.random.Generator(np.random.Philox(1))
    truth, inside = draws.uniform(0.7, 1.0, 10), 0
    for _ in range(200):
        groups = [(draws.random(5) < p).astype(float).tolist() for p in truth]
        low, high = macro_mean(groups)
        inside += low <= truth.mean() <= high
    assert inside >= 185
    low, high = macro_mean([[1.0] * 5] * 10)
    assert (low < 0.94, high) == (True, 1.0)


def test_paired_tests() -> None:
    assert mcnemar([True] * 5 + [False] * 5, [True] * 5 + [False] * 5) == 1.0
    assert mcnemar([True] * 6 + [False], [False] * 6 + [False]) == pytest.approx(2 / 2**6)
    assert mcnemar([True, False], [False, True]) == 1.0
    difference, (low, high), p = paired_bootstrap([0.0] * 50, [1.0] * 25 + [0.5] * 25)
    assert difference == pytest.approx(0.75)
    assert 0.6 < low < difference < high < 0.9
    assert p < 0.001
    same = paired_bootstrap([0.3, 0.1, 0.2, 0.4] * 5, [0.1, 0.3, 0.4, 0.2] * 5)
    assert same[2] > 0.5
