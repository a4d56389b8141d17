"""Scores of labels: what was said, against what is right."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertgpt.evals.intervals import bootstrap, wilson
from bertgpt.evals.results import ScoreWithInterval

Values = NDArray[Any]  # classes by number, or numbers


def accuracy(right: Values, said: Values) -> float:
    """The share that is right."""
    return float((right == said).mean())


def mcc(right: Values, said: Values) -> float:
    """The correlation of two classes, or of more (Matthews, 1975; Gorodkin, 2004); 0 where one of both never varies."""
    names = np.union1d(right, said)
    one, other = (np.equal.outer(values, names).astype(np.float64) for values in (right, said))
    return correlation(one - one.mean(axis=0), other - other.mean(axis=0))


def f1(right: Values, said: Values) -> float:
    """The harmonic mean of precision and recall of the second class; 0 where it neither is nor is said."""
    both, either = float(((right == 1) & (said == 1)).sum()), float((right == 1).sum() + (said == 1).sum())
    return 2 * both / either if either else 0.0


def pearson(right: Values, said: Values) -> float:
    """The linear correlation; 0 where one of both never varies."""
    return correlation(right - right.mean(), said - said.mean())


def spearman(right: Values, said: Values) -> float:
    """The correlation of ranks."""
    return pearson(ranks(right), ranks(said))


def correlation(one: Values, other: Values) -> float:
    """Of deviations from means."""
    whole = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / whole if whole > 1e-12 else 0.0


def ranks(values: Values) -> Values:
    """From 0 on; equals share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts + 1) / 2)[place]


METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": accuracy, "matthews": mcc, "f1": f1, "pearson": pearson, "spearman": spearman,
}  # fmt: skip


def score_over_seeds(name: str, right: Values, said: Sequence[Values]) -> ScoreWithInterval:
    """The mean over several models, with how far other items might have moved it."""
    metric = METRICS[name]
    value = float(np.mean([metric(right, each) for each in said]))
    if name == "accuracy" and len(said) == 1:
        return ScoreWithInterval.with_interval(value, wilson(value * len(right), len(right)))
    chosen = lambda some: float(np.mean([metric(right[some], each[some]) for each in said]))  # noqa: E731
    return ScoreWithInterval.with_interval(value, bootstrap(len(right), chosen))
