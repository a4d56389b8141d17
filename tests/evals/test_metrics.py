"""Scores of labels, beside those of scikit-learn and scipy."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as theirs

from bertgpt.evals.metrics import METRICS, ranks, score_over_seeds

DRAWS = np.random.default_rng(0)


@pytest.mark.parametrize("classes", [2, 4])
def test_of_classes(classes: int) -> None:
    for _ in range(20):
        right, said = DRAWS.integers(0, classes, (2, 50))
        assert METRICS["accuracy"](right, said) == pytest.approx(theirs.accuracy_score(right, said))
        assert METRICS["matthews"](right, said) == pytest.approx(theirs.matthews_corrcoef(right, said))
        if classes == 2:
            assert METRICS["f1"](right, said) == pytest.approx(theirs.f1_score(right, said))


def test_of_numbers() -> None:
    for _ in range(20):
        right, said = DRAWS.integers(0, 6, 40) / 2, DRAWS.normal(size=40).round(1)
        assert METRICS["pearson"](right, said) == pytest.approx(stats.pearsonr(right, said)[0])
        assert METRICS["spearman"](right, said) == pytest.approx(stats.spearmanr(right, said)[0])
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]


def test_who_always_says_the_same_scores_nothing() -> None:
    right, same = np.array([0, 1, 1, 0]), np.array([0, 0, 0, 0])
    assert [METRICS[name](right, same) for name in ("matthews", "f1", "pearson", "spearman")] == [0, 0, 0, 0]
    assert METRICS["accuracy"](right, same) == 0.5


def test_intervals_hold_the_score() -> None:
    right, said = DRAWS.integers(0, 2, (2, 200))
    said = np.where(DRAWS.random(200) < 0.8, right, said)
    for name in ("accuracy", "matthews", "f1"):
        one, several = score_over_seeds(name, right, [said]), score_over_seeds(name, right, [said, right])
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.value < one.high
        assert several.value == pytest.approx((one.value + 1) / 2)
