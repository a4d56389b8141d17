"""Paired comparison of two results on the same items, with significance tests."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertgpt.evals.intervals import mcnemar, paired_bootstrap
from bertgpt.utils.errors import BertGPTError


class Comparison(NamedTuple):
    """Which columns of a suite's items are compared."""

    columns: tuple[str, ...]
    denominator: str | None = None  # column that the values are divided by
    lower_is_better: bool = False


COMPARISONS = {
    "hellaswag": Comparison(("acc_norm",)), "cloze": Comparison(("acc_norm",)), "lambada": Comparison(("acc",)),
    "lm": Comparison(("nll",), "bytes", lower_is_better=True), "mlm": Comparison(("correct",), "targets"),
    "tinyworld": Comparison(("story completion", "cloze", "topic", "sentiment", "acceptability")),
}  # fmt: skip
DEFAULT = Comparison(("correct",))  # classification
SIGNIFICANCE_LEVEL = 0.05


def compare_results(a: Path, b: Path) -> list[dict[str, Any]]:
    """Compare every suite that both folders of results have."""
    suffix = ".items.parquet"
    names = [{file.name.removesuffix(suffix) for file in folder.glob(f"*{suffix}")} for folder in (a, b)]
    shared = sorted(names[0] & names[1])
    if not shared:
        cause = f"{a}: {', '.join(sorted(names[0])) or 'none'}; {b}: {', '.join(sorted(names[1])) or 'none'}"
        raise BertGPTError("BG211", "these folders have no results of the same suite", cause=cause)
    return [row for suite in shared for row in compare_suite(suite, a, b)]


def compare_suite(suite: str, a: Path, b: Path) -> list[dict[str, Any]]:
    """Compare the scores of a suite, after checking that both results cover the same items."""
    import pyarrow.parquet as pq

    results = [json.loads((folder / f"{suite}.json").read_text(encoding="utf-8")) for folder in (a, b)]
    if any(results[0][name] != results[1][name] for name in ("definition", "n", "partial")):
        cause = "; ".join(f"{each['definition']} of {each['n']:,}{' PARTIAL' * each['partial']}" for each in results)
        raise BertGPTError("BG324", f"results of {suite} cover different items", cause=cause)
    if results[0]["metadata"]["data"] != results[1]["metadata"]["data"]:
        raise BertGPTError("BG324", f"results of {suite} are for different data")
    tables = [pq.read_table(folder / f"{suite}.items.parquet").to_pydict() for folder in (a, b)]
    comparison = COMPARISONS.get(suite, DEFAULT)
    shared = [column for column in comparison.columns if column in tables[0] and column in tables[1]]
    if not shared:
        raise BertGPTError("BG324", f"results of {suite} have no items that can be compared")
    return [compare_column(suite, column, tables, comparison) for column in shared]


def compare_column(suite: str, column: str, tables: list[dict[str, Any]], comparison: Comparison) -> dict[str, Any]:
    """Difference B - A of a score, its interval, p-value and verdict: McNemar's test for right or wrong, else the
    paired bootstrap."""
    a, b = (np.asarray(table[column], np.float64) for table in tables)
    if comparison.denominator is not None:
        a, b = (x / np.mean(table[comparison.denominator]) for x, table in zip((a, b), tables, strict=True))
    if suite == "lm":
        a, b = a / np.log(2), b / np.log(2)
    difference, (low, high), p = paired_bootstrap(a, b)
    if comparison.denominator is None and np.isin([a, b], (0, 1)).all():
        p = mcnemar(a == 1, b == 1)
    better = "B" if (difference < 0) == comparison.lower_is_better else "A"
    verdict = f"{better} is better" if p < SIGNIFICANCE_LEVEL and difference else "not distinguishable"
    return {
        "suite": suite, "score": "bits_per_byte" if suite == "lm" else column, "a": float(a.mean()),
        "b": float(b.mean()), "difference": difference, "low": low, "high": high, "p": p, "verdict": verdict,
    }  # fmt: skip
