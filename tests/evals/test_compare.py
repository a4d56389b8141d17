"""Comparing the results of two models: the headline score, verdicts, and what cannot be compared."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import matthews_corrcoef

from bertgpt.evals.compare import compare_results, same_definition
from bertgpt.evals.results import EvalResult, ScoreWithInterval
from tests.conftest import Outcome

Run = Callable[..., Outcome]


def test_comparison_names_the_better_model(tmp_path: Path) -> None:
    """More correct predictions; fewer bits per byte."""
    worse = {"probe": {"correct": [False, True] * 20}, "lm": {"nll": [9.0, 7.0] * 20, "bytes": [2, 3] * 20}}
    better = {"probe": {"correct": [True] * 40}, "lm": {"nll": [5.0, 6.0] * 20, "bytes": [2, 3] * 20}}
    for name, columns in (("worse", worse), ("better", better)):
        for suite, items in columns.items():
            scores = {"bits_per_byte" if suite == "lm" else "accuracy": ScoreWithInterval(0.5)}
            EvalResult(suite, "x/1", 40, scores, items=items, metadata={"data": {}}).save(tmp_path / name, 0.0)
    for a, b, verdict in (("worse", "better", "B"), ("better", "worse", "A")):
        rows = compare_results(tmp_path / a, tmp_path / b)
        assert [row["suite"] for row in rows] == ["lm", "probe"]
        assert {row["verdict"] for row in rows} == {f"{verdict} is better"}
    bits = next(row for row in compare_results(tmp_path / "worse", tmp_path / "better") if row["suite"] == "lm")
    assert bits["a"] == pytest.approx(16 / 5 / math.log(2))


def save_result(folder: Path, suite: str, score: str, **items: Any) -> None:
    scores, n = {score: ScoreWithInterval(0.5)}, len(next(iter(items.values())))
    EvalResult(suite, f"{suite}.{score}/1", n, scores, items=items, metadata={"data": {}}).save(folder, 0.0)


def test_comparison_is_of_the_headline_score(tmp_path: Path) -> None:
    """CoLA: a model that always says acceptable has a higher accuracy, and a Matthews correlation of 0."""
    labels = ["acceptable"] * 70 + ["unacceptable"] * 30
    flip = {"acceptable": "unacceptable", "unacceptable": "acceptable"}
    mixed = [flip[label] if i % 3 == 0 else label for i, label in enumerate(labels)]
    for name, answers in (("a", ["acceptable"] * 100), ("b", mixed)):
        correct = [float(answer == label) for answer, label in zip(answers, labels, strict=True)]
        save_result(tmp_path / name, "cola", "matthews", label=labels, prediction=answers, correct=correct)
        numbers = [float(i if name == "a" else -i) for i in range(100)]
        save_result(tmp_path / name, "stsb", "pearson", label=[float(i) for i in range(100)], prediction=numbers)
    cola, stsb = compare_results(tmp_path / "a", tmp_path / "b")
    expected = matthews_corrcoef(labels, mixed)
    assert (cola["score"], cola["a"], cola["verdict"]) == ("matthews", 0.0, "B is better")
    assert cola["b"] == pytest.approx(expected)
    assert (stsb["score"], stsb["a"], stsb["b"], stsb["verdict"]) == ("pearson", 1.0, -1.0, "A is better")


def test_comparison_goes_on_after_a_suite_that_cannot_be_compared(tmp_path: Path, run: Run) -> None:
    for name in ("a", "b"):
        items = {"nll": [9.0, 7.0] * 20, "tokens": [2 + (name == "b")] * 40, "bytes": [5] * 40}
        save_result(tmp_path / name, "lm", "loss", **items)  # no bits per byte: the tokenizer is lossy
        save_result(tmp_path / name, "probe", "accuracy", correct=[float(name == "a"), 1.0] * (20 + (name == "b")))
        save_result(tmp_path / name, "topic", "accuracy", correct=[float(name == "a"), 1.0] * 20)
    done = run("eval", "compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json")
    rows = json.loads(done.out)["result"]["comparisons"]
    verdicts = {row["suite"]: row["verdict"] for row in rows}
    assert verdicts["topic"] == "A is better"
    assert verdicts["lm"].startswith("not comparable: a tokenizer is lossy")
    assert verdicts["probe"] == "not comparable: results of probe cover different items"
    table = run("eval", "compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert (table.code, table.out.count("not comparable")) == (0, 2)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("x/1+prefix-eos", "x/1+prefix-eos", True), ("x/1+prefix-eos", "x/1+prefix-none", False),
        ("x/1+prefix-eos", "x/1", True), ("x/1+prefix-eos", "x/2", False), ("x/1", "y/1", False),
    ],
)  # fmt: skip
def test_definitions_that_can_be_compared(a: str, b: str, same: bool) -> None:
    assert same_definition(a, b) is same
    assert same_definition(b, a) is same
