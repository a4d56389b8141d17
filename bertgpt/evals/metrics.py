"""Metrics of predictions against labels: scikit-learn's for classes, correlations for numbers, and their intervals."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertgpt.evals.intervals import bootstrap, wilson
from bertgpt.evals.results import ScoreWithInterval

Values = NDArray[Any]  # class ids, or numbers


def compute_metric(name: str, labels: Values, predictions: Values) -> float:
    """A metric by its name. F1 is that of class 1; all but the accuracy are 0 where they are undefined."""
    from sklearn.metrics import accuracy_score, f1_score

    metrics = {
        "accuracy": accuracy_score, "matthews": matthews, "f1": partial(f1_score, zero_division=0.0),
        "pearson": pearson, "spearman": spearman,
    }  # fmt: skip
    return float(metrics[name](labels, predictions))


def matthews(labels: Values, predictions: Values) -> Any:
    """Matthews correlation; 0 if labels and predictions are all of one class, of which scikit-learn warns."""
    from sklearn.metrics import matthews_corrcoef

    return matthews_corrcoef(labels, predictions) if len(np.union1d(labels, predictions)) > 1 else 0.0


def pearson(labels: Values, predictions: Values) -> Any:
    """Pearson correlation along the last axis; 0 where labels or predictions are constant.

    numpy's and scipy's take one sample at a time, which would make the bootstrap a slow loop.
    """
    a, b = (values - values.mean(axis=-1, keepdims=True) for values in (labels, predictions))
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1)).astype(np.float64)
    return (a * b).sum(axis=-1).astype(np.float64) / np.where(scale > 1e-12, scale, np.inf)


def spearman(labels: Values, predictions: Values) -> Any:
    """Spearman rank correlation along the last axis; tied values share their mean rank."""
    from scipy.stats import rankdata

    return pearson(rankdata(labels, axis=-1), rankdata(predictions, axis=-1))


# The same metrics of many resamples at once, (B, n) -> (B,): scikit-learn takes one at a time, and 2,000 calls of its
# `matthews_corrcoef` for 1,000 items take seconds.


def accuracies(labels: Values, predictions: Values) -> Values:
    """Accuracy of each row."""
    result: Values = np.count_nonzero(labels == predictions, axis=1) / labels.shape[1]
    return result


def f1_scores(labels: Values, predictions: Values) -> Values:
    """F1 of each row, from counts of positives."""
    positive, predicted = labels == 1, predictions == 1
    true_positives = np.count_nonzero(positive & predicted, axis=1)
    total = np.count_nonzero(positive, axis=1) + np.count_nonzero(predicted, axis=1)
    result: Values = 2 * true_positives / np.maximum(total, 1)
    return result


def mccs(labels: Values, predictions: Values) -> Values:
    """Matthews correlation of each row, from the totals of its confusion matrix (Gorodkin, 2004)."""
    size, n = labels.shape
    classes = int(max(labels.max(), predictions.max())) + 1
    offsets = np.arange(size)[:, None] * classes
    true, predicted = (
        np.bincount((ids + offsets).ravel(), minlength=size * classes).reshape(size, classes)
        for ids in (labels, predictions)
    )  # (B, classes): how often each class is the label, and how often it is predicted
    covariance = n * np.count_nonzero(labels == predictions, axis=1) - (true * predicted).sum(axis=1)
    scale = np.sqrt((n * n - (true * true).sum(axis=1)) * 1.0 * (n * n - (predicted * predicted).sum(axis=1)))
    result: Values = covariance / np.where(scale > 0, scale, np.inf)
    return result


BATCHED_METRICS: dict[str, Callable[[Values, Values], Values]] = {
    "accuracy": accuracies, "matthews": mccs, "f1": f1_scores, "pearson": pearson, "spearman": spearman,
}  # fmt: skip


def score_over_seeds(name: str, labels: Values, predictions: Sequence[Values]) -> ScoreWithInterval:
    """Mean of a metric over the predictions of several seeds, with a 95 % interval over items.

    Wilson's for the accuracy of one seed, else the bootstrap's.
    """
    value = float(np.mean([compute_metric(name, labels, each) for each in predictions]))
    if name == "accuracy" and len(predictions) == 1:
        return ScoreWithInterval(value, *wilson(value * len(labels), len(labels)))
    metric = BATCHED_METRICS[name]
    means = lambda chosen: np.mean([metric(labels[chosen], each[chosen]) for each in predictions], axis=0)  # noqa: E731
    return ScoreWithInterval(value, *bootstrap(len(labels), means))
