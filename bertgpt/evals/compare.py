"""Paired comparison of two results on the same items, with significance tests."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertgpt.evals.intervals import Interval, bootstrap_difference, mcnemar, paired_bootstrap
from bertgpt.evals.metrics import BATCHED_METRICS
from bertgpt.evals.tasks import TASKS
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.json_files import read_json_object

COMPARED = {  # columns of the items of each suite; of classification, whether the prediction is correct
    "hellaswag": ("acc_norm",), "cloze": ("acc_norm",), "lambada": ("acc",),
    "tinyworld": ("story completion", "cloze", "topic", "sentiment", "acceptability"),
}  # fmt: skip
SIGNIFICANCE_LEVEL = 0.05


def compare_results(a: Path, b: Path) -> list[dict[str, Any]]:
    """Compare every suite that both folders of results have."""
    suffix = ".items.parquet"
    names = [{file.name.removesuffix(suffix) for file in folder.glob(f"*{suffix}")} for folder in (a, b)]
    shared = sorted(names[0] & names[1])
    if not shared:
        cause = f"{a}: {', '.join(sorted(names[0])) or 'none'}; {b}: {', '.join(sorted(names[1])) or 'none'}"
        raise BertGPTError("BG211", "these folders have no results of the same suite", cause=cause)
    rows: list[dict[str, Any]] = []
    errors: list[BertGPTError] = []
    for suite in shared:
        try:
            rows += compare_suite(suite, a, b)
        except BertGPTError as error:
            errors.append(error)
            rows.append(not_comparable(suite, error))
    if len(errors) == len(shared):
        raise errors[0]
    return rows


def not_comparable(suite: str, error: BertGPTError) -> dict[str, Any]:
    """The row of a suite whose results cannot be compared."""
    values = dict.fromkeys(("score", "a", "b", "difference", "low", "high", "p"))
    return {"suite": suite, **values, "verdict": f"not comparable: {error.message}"}


def compare_suite(suite: str, a: Path, b: Path) -> list[dict[str, Any]]:
    """Compare the scores of a suite, after checking that both results cover the same items."""
    import pyarrow.parquet as pq

    results = [read_json_object(folder / f"{suite}.json", "BG313", f"results of {suite}") for folder in (a, b)]
    same_items = all(results[0][name] == results[1][name] for name in ("n", "partial"))
    if not (same_items and same_definition(results[0]["definition"], results[1]["definition"])):
        cause = "; ".join(f"{each['definition']} of {each['n']:,}{' PARTIAL' * each['partial']}" for each in results)
        raise BertGPTError("BG324", f"results of {suite} cover different items", cause=cause)
    if results[0]["metadata"]["data"] != results[1]["metadata"]["data"]:
        raise BertGPTError("BG324", f"results of {suite} are for different data")
    tables = [pq.read_table(folder / f"{suite}.items.parquet").to_pydict() for folder in (a, b)]
    if suite == "lm":
        return [compare_lm(results, tables)]
    headline = next(iter(results[0]["scores"]))
    if headline in BATCHED_METRICS and headline != "accuracy":
        return [compare_metric(suite, headline, tables)]
    columns = COMPARED.get(suite, ("correct",))
    shared = [column for column in columns if column in tables[0] and column in tables[1]]
    if not shared:
        raise BertGPTError("BG324", f"results of {suite} have no items that can be compared")
    values = [{column: np.asarray(table[column], np.float64) for column in shared} for table in tables]
    if suite == "mlm":
        values = [
            {"correct": each["correct"] / np.mean(table["targets"])} for each, table in zip(values, tables, strict=True)
        ]
    return [compare_items(suite, column, values[0][column], values[1][column]) for column in shared]


def same_definition(a: str, b: str) -> bool:
    """Whether scores are defined alike. A masked model has no prefix token, but shares other scores of tinyworld."""
    (base_a, _, prefix_a), (base_b, _, prefix_b) = a.partition("+"), b.partition("+")
    return base_a == base_b and (prefix_a == prefix_b or "" in (prefix_a, prefix_b))


def compare_lm(results: Sequence[dict[str, Any]], tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare bits per byte; of lossy tokenizers, which have none, the loss per token if they are the same."""
    nlls = [np.asarray(table["nll"], np.float64) for table in tables]
    if all("bits_per_byte" in result["scores"] for result in results):
        unit = np.log(2) * np.mean(tables[0]["bytes"])
        return compare_items("lm", "bits_per_byte", nlls[0] / unit, nlls[1] / unit, lower_is_better=True)
    if tables[0]["tokens"] != tables[1]["tokens"]:
        raise BertGPTError("BG324", "a tokenizer is lossy, so there are no bits per byte, and the tokenizers differ")
    unit = np.mean(tables[0]["tokens"])
    return compare_items("lm", "loss", nlls[0] / unit, nlls[1] / unit, lower_is_better=True)


def compare_items(
    suite: str, score: str, a: NDArray[np.float64], b: NDArray[np.float64], lower_is_better: bool = False
) -> dict[str, Any]:
    """Compare means over items: by McNemar's test for right or wrong, else by the paired bootstrap."""
    _, interval, p = paired_bootstrap(a, b)
    if score not in ("bits_per_byte", "loss") and np.isin([a, b], (0, 1)).all():
        p = mcnemar(a == 1, b == 1)
    return comparison(suite, score, (float(a.mean()), float(b.mean())), interval, p, lower_is_better)


def compare_metric(suite: str, metric: str, tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare a metric of all items at once, such as a correlation, by the paired bootstrap; the mean over seeds."""
    ids = label_ids(suite, tables)
    labels = ids(tables[0]["label"])
    answers = [[ids(values) for name, values in table.items() if name.startswith("prediction")] for table in tables]

    def scores(chosen: NDArray[np.int64]) -> list[NDArray[Any]]:
        compute = BATCHED_METRICS[metric]
        return [np.mean([compute(labels[chosen], each[chosen]) for each in seeds], axis=0) for seeds in answers]

    a, b = (float(each[0]) for each in scores(np.arange(len(labels))[None]))
    interval, p = bootstrap_difference(len(labels), lambda chosen: np.subtract(*scores(chosen)[::-1]))
    return comparison(suite, metric, (a, b), interval, p)


def label_ids(suite: str, tables: Sequence[dict[str, Any]]) -> Callable[[Sequence[Any]], NDArray[Any]]:
    """A function from labels to class ids, or to numbers where labels are numbers."""
    if not isinstance(tables[0]["label"][0], str):
        return lambda values: np.asarray(values, np.float64)
    found = sorted({label for table in tables for label in (*table["label"], *table["prediction"])})
    classes = TASKS[suite].labels if suite in TASKS else found
    ids = {name: number for number, name in enumerate(classes)}
    return lambda values: np.array([ids[value] for value in values], np.int64)


def comparison(
    suite: str, score: str, values: tuple[float, float], interval: Interval, p: float, lower_is_better: bool = False
) -> dict[str, Any]:
    """The row of a score: difference B - A, its interval, p-value and verdict."""
    difference = values[1] - values[0]
    better = "B" if (difference < 0) == lower_is_better else "A"
    verdict = f"{better} is better" if p < SIGNIFICANCE_LEVEL and difference else "not distinguishable"
    return {
        "suite": suite, "score": score, "a": values[0], "b": values[1], "difference": difference, "low": interval[0],
        "high": interval[1], "p": p, "verdict": verdict,
    }  # fmt: skip
