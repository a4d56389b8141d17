"""Metrics and their bootstrap, beside scikit-learn and scipy."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from bertgpt.evals.metrics import BATCHED_METRICS, compute_metric, score_over_seeds

DRAWS = np.random.default_rng(0)


REFERENCES = {
    "accuracy": sklearn_metrics.accuracy_score, "matthews": sklearn_metrics.matthews_corrcoef,
    "f1": sklearn_metrics.f1_score, "pearson": lambda a, b: stats.pearsonr(a, b)[0],
    "spearman": lambda a, b: stats.spearmanr(a, b)[0],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "classes"), [("accuracy", 2), ("accuracy", 4), ("matthews", 2), ("matthews", 4), ("f1", 2)]
)
def test_classification_metrics(name: str, classes: int) -> None:
    """One sample at a time, and many at once for the bootstrap."""
    labels, predictions = DRAWS.integers(0, classes, (2, 20, 50))
    expected = [REFERENCES[name](*pair) for pair in zip(labels, predictions, strict=True)]
    assert [compute_metric(name, *pair) for pair in zip(labels, predictions, strict=True)] == pytest.approx(
        expected, abs=1e-12
    )
    assert BATCHED_METRICS[name](labels, predictions) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_correlations(name: str) -> None:
    labels, predictions = DRAWS.integers(0, 6, (20, 40)) / 2, DRAWS.normal(size=(20, 40)).round(1)
    expected = [REFERENCES[name](*pair) for pair in zip(labels, predictions, strict=True)]
    assert [compute_metric(name, *pair) for pair in zip(labels, predictions, strict=True)] == pytest.approx(expected)
    assert BATCHED_METRICS[name](labels, predictions) == pytest.approx(expected)


def test_constant_predictions_score_zero() -> None:
    labels, same = np.array([0, 1, 1, 0]), np.array([0, 0, 0, 0])
    for name in ("matthews", "f1", "pearson", "spearman"):
        assert compute_metric(name, labels, same) == BATCHED_METRICS[name](labels[None], same[None])[0] == 0
    assert compute_metric("accuracy", labels, same) == 0.5


def test_intervals_contain_the_score() -> None:
    labels, predictions = DRAWS.integers(0, 2, (2, 200))
    predictions = np.where(DRAWS.random(200) < 0.8, labels, predictions)
    for name in ("accuracy", "matthews", "f1"):
        one = score_over_seeds(name, labels, [predictions])
        two = score_over_seeds(name, labels, [predictions, labels])
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.value < one.high
        assert two.value == pytest.approx((one.value + 1) / 2)


@pytest.mark.parametrize("name", ["accuracy", "matthews", "f1", "pearson", "spearman"])
@pytest.mark.filterwarnings("error")
def test_single_class_gives_no_warning(name: str) -> None:
    ones = np.ones(5, np.int64)
    assert compute_metric(name, ones, ones) == (1.0 if name in ("accuracy", "f1") else 0.0)


@pytest.mark.slow
def test_linear_models_use_one_blas_thread() -> None:
    """Of every BLAS library, also those that only scikit-learn loads: else sums would depend on the machine."""
    code = """if True:
        from threadpoolctl import threadpool_info
        from bertgpt.evals.probe import single_threaded_blas
        with single_threaded_blas():
            print([library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"])
    """
    environment = os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    threads = json.loads(done.stdout)
    assert len(threads) > 1
    assert set(threads) == {1}
