"""Evaluation results: scores with intervals and baselines, predictions of every item, and provenance.

results/RUN/SUITE.json            the result; the same bytes from the same model and data
results/RUN/SUITE.items.parquet   a row for each item
results/RUN/SUITE.run.json        time, host and versions
"""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertgpt.evals.intervals import wilson
from bertgpt.utils.files import atomic_write, ensure_writable_folder, write_json
from bertgpt.utils.version import __version__


@dataclass(frozen=True)
class ScoreWithInterval:
    """A score, and its 95 % confidence interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None

    def map(self, function: Callable[[float], float]) -> "ScoreWithInterval":
        """An increasing function of the score, and of both ends of its interval."""
        low, high = (None if limit is None else function(limit) for limit in (self.low, self.high))
        return ScoreWithInterval(function(self.value), low, high)

    @classmethod
    def from_correct(cls, correct: Sequence[float]) -> "ScoreWithInterval":
        """Accuracy over items that are correct (1), wrong (0) or tied (a fraction), with a Wilson interval."""
        return cls(sum(correct) / len(correct), *wilson(sum(correct), len(correct)))

    def as_json(self) -> dict[str, float | None]:
        """Rounded to 6 digits: the last digits of sums depend on the machine."""
        return {name: None if v is None else round(v, 6) for name, v in vars(self).items()}


@dataclass
class EvalResult:
    """The result of a suite."""

    suite: str
    definition: str  # name of the metric's definition; changes when the definition does
    n: int
    scores: dict[str, ScoreWithInterval]
    baselines: dict[str, ScoreWithInterval] = field(default_factory=dict)
    items: dict[str, Any] = field(default_factory=dict)  # columns, a value for each item
    metadata: dict[str, Any] = field(default_factory=dict)  # hashes of data and model
    notes: list[str] = field(default_factory=list)
    partial: bool = False

    def as_json(self) -> dict[str, Any]:
        """The content of SUITE.json; deterministic."""
        tables = {
            name: {key: score.as_json() for key, score in table.items()}
            for name, table in (("scores", self.scores), ("baselines", self.baselines))
        }
        header = {"suite": self.suite, "definition": self.definition, "n": self.n, "partial": self.partial}
        return header | tables | {"notes": self.notes, "metadata": self.metadata}

    def save(self, folder: Path, started: float) -> None:
        """Write all three files, each atomically; SUITE.json last."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        ensure_writable_folder(folder)
        table = pa.table(self.items)
        items = folder / f"{self.suite}.items.parquet"
        with atomic_write(items) as temporary:
            pq.write_table(table, temporary)
        run = {
            "bertgpt": __version__, "python": platform.python_version(), "host": platform.node(),
            "seconds": round(time.time() - started, 1), "ended": time.strftime("%FT%TZ", time.gmtime()),
        }  # fmt: skip
        write_json(folder / f"{self.suite}.run.json", run)
        write_json(folder / f"{self.suite}.json", self.as_json())
