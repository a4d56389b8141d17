"""Two models on the same items: whether one is better, or chance may have made it look so."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from bertgpt.evals.intervals import mcnemar, paired_bootstrap
from bertgpt.utils.errors import BertGPTError

# What is compared of each suite: columns of its items, what these are divided by, and whether less is better.
COMPARED = {
    "hellaswag": (("acc_norm",), None, False), "cloze": (("acc_norm",), None, False),
    "lambada": (("acc",), None, False), "lm": (("nats",), "bytes", True), "mlm": (("correct",), "targets", False),
    "tinyworld": (("endings", "cloze", "topic", "sentiment", "acceptability"), None, False),
}  # fmt: skip
OTHERS = (("correct",), None, False)  # of everything with classes
LIKELY = 0.05


def compare_results(one: Path, other: Path) -> list[dict[str, Any]]:
    """Every suite that both were asked."""
    items = ".items.parquet"
    names = [{file.name.removesuffix(items) for file in folder.glob(f"*{items}")} for folder in (one, other)]
    both = sorted(names[0] & names[1])
    if not both:
        cause = f"{one}: {', '.join(sorted(names[0])) or 'none'}; {other}: {', '.join(sorted(names[1])) or 'none'}"
        raise BertGPTError("BG211", "these folders have no results of the same suite to compare", cause=cause)
    return [found for suite in both for found in compare_suite(suite, one, other)]


def compare_suite(suite: str, one: Path, other: Path) -> list[dict[str, Any]]:
    """One of them: each column that both have."""
    import pyarrow.parquet as pq

    told = [json.loads((folder / f"{suite}.json").read_text(encoding="utf-8")) for folder in (one, other)]
    if any(told[0][name] != told[1][name] for name in ("definition", "n", "partial")):
        cause = "; ".join(f"{each['definition']} of {each['n']:,}{' PARTIAL' * each['partial']}" for each in told)
        raise BertGPTError("BG324", f"the two results of {suite} are not of the same items", cause=cause)
    if told[0]["facts"]["data"] != told[1]["facts"]["data"]:
        raise BertGPTError("BG324", f"the two results of {suite} are of other data")
    tables = [pq.read_table(folder / f"{suite}.items.parquet").to_pydict() for folder in (one, other)]
    columns, over, less = COMPARED.get(suite, OTHERS)
    shared = [column for column in columns if column in tables[0] and column in tables[1]]
    if not shared:
        raise BertGPTError("BG324", f"the two results of {suite} have no items that can be compared")
    return [compare_column(suite, column, tables, over, less) for column in shared]


def compare_column(
    suite: str, column: str, tables: list[dict[str, Any]], over: str | None, less: bool
) -> dict[str, Any]:
    """One score, item by item."""
    values = [np.asarray(table[column], np.float64) for table in tables]
    if over is not None:
        below = [np.asarray(table[over], np.float64) for table in tables]
        values = [value / whole.mean() for value, whole in zip(values, below, strict=True)]
    if suite == "lm":
        values = [value / np.log(2) for value in values]
    difference, (low, high), p = paired_bootstrap(values[0].tolist(), values[1].tolist())
    if over is None and set(np.unique(np.concatenate(values))) <= {0.0, 1.0}:
        p = mcnemar((values[0] == 1).tolist(), (values[1] == 1).tolist())
    better = "B" if (difference < 0) == less else "A"
    verdict = f"{better} is better" if p < LIKELY and difference else "not distinguishable"
    name = "bits_per_byte" if suite == "lm" else column
    found = {"suite": suite, "score": name, "a": values[0].mean(), "b": values[1].mean(), "difference": difference}
    return {k: float(v) if not isinstance(v, str) else v for k, v in found.items()} | {
        "low": low, "high": high, "p": p, "verdict": verdict,
    }  # fmt: skip
