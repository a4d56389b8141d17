"""How far a score may be from what endless data would show, and whether two scores differ."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054  # of 95 %
RESAMPLES, SEED = 2000, 0
Floats = NDArray[np.float64]
Interval = tuple[float, float]


def wilson(right: float, n: int) -> Interval:
    """Of a share (Wilson, 1927); ties count a half."""
    if not n:
        return 0.0, 1.0
    share, spread = right / n, Z * Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(items: int, score: Callable[[NDArray[np.int64]], float], resamples: int = RESAMPLES) -> Interval:
    """Of any score: what it is for items drawn anew, with replacement, always the same draws (Efron, 1979)."""
    draws = np.random.Generator(np.random.Philox(SEED))
    found = np.sort([score(draws.integers(0, items, items)) for _ in range(resamples)])
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def bootstrap_mean(values: Sequence[float]) -> Interval:
    """Of a mean, by the bootstrap."""
    each = np.asarray(values, np.float64)
    return bootstrap(len(each), lambda chosen: float(each[chosen].mean()))


def bootstrap_ratio(tops: Sequence[float], bottoms: Sequence[float]) -> Interval:
    """Of the ratio of two sums over the same items."""
    top, bottom = np.asarray(tops, np.float64), np.asarray(bottoms, np.float64)
    return bootstrap(len(top), lambda chosen: float(top[chosen].sum() / bottom[chosen].sum()))


def mcnemar(one: Sequence[bool], other: Sequence[bool]) -> float:
    """How likely it is by chance that two models are right so unequally often on the same items: exact, two-sided."""
    first = sum(a and not b for a, b in zip(one, other, strict=True))
    second = sum(b and not a for a, b in zip(one, other, strict=True))
    n, fewer = first + second, min(first, second)
    tail: float = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    return min(1.0, 2 * tail)


def paired_bootstrap(one: Sequence[float], other: Sequence[float]) -> tuple[float, Interval, float]:
    """The mean difference of two models on the same items, its interval, and how likely chance makes it as large."""
    gaps = np.asarray(other, np.float64) - np.asarray(one, np.float64)
    draws = np.random.Generator(np.random.Philox(SEED))
    means = np.sort([gaps[draws.integers(0, len(gaps), len(gaps))].mean() for _ in range(RESAMPLES)])
    beyond = 2 * min((means <= 0).mean(), (means >= 0).mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(gaps.mean()), (float(low), float(high)), float(min(1.0, max(beyond, 1 / RESAMPLES)))
