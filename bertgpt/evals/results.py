"""What an evaluation found: scores with their intervals and baselines, every item, and where it comes from.

results/RUN/SUITE.json            the same bytes from the same model and data
results/RUN/SUITE.items.parquet   what was said of each item
results/RUN/SUITE.run.json        when, where, with what
"""

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertgpt.evals.intervals import Interval, bootstrap_mean, wilson
from bertgpt.utils.files import discard_result, ensure_writable_folder, write_atomic, write_json
from bertgpt.utils.version import __version__


@dataclass(frozen=True)
class ScoreWithInterval:
    """A number, and how far it may be off."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def from_correct(cls, rights: list[float]) -> "ScoreWithInterval":
        """Of items that are right (1), wrong (0) or tied."""
        low, high = wilson(sum(rights), len(rights))
        return cls(sum(rights) / len(rights), low, high)

    @classmethod
    def mean(cls, values: list[float]) -> "ScoreWithInterval":
        """Of anything else."""
        return cls.with_interval(sum(values) / len(values), bootstrap_mean(values))

    @classmethod
    def with_interval(cls, value: float, interval: Interval) -> "ScoreWithInterval":
        """With an interval that is known."""
        return cls(value, *interval)

    def as_json(self) -> dict[str, float | None]:
        """Rounded, so that the last digits of sums are no news."""
        return {name: None if v is None else round(v, 6) for name, v in vars(self).items()}


@dataclass
class EvalResult:
    """What a suite found."""

    suite: str
    definition: str  # what exactly is counted, by a name that changes when that does
    n: int
    scores: dict[str, ScoreWithInterval]
    baselines: dict[str, ScoreWithInterval] = field(default_factory=dict)
    items: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # columns
    facts: dict[str, Any] = field(default_factory=dict)  # of data and model, by hash
    notes: list[str] = field(default_factory=list)
    partial: bool = False

    def as_json(self) -> dict[str, Any]:
        """The result; deterministic."""
        tables = {
            name: {key: score.as_json() for key, score in table.items()}
            for name, table in (("scores", self.scores), ("baselines", self.baselines))
        }
        told = {"suite": self.suite, "definition": self.definition, "n": self.n, "partial": self.partial}
        return told | tables | {"notes": self.notes, "facts": self.facts}

    def save(self, folder: Path, began: float) -> None:
        """All three files, each whole or not there; the result last."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        ensure_writable_folder(folder)
        table = pa.table(dict(self.items))
        write_atomic(folder / f"{self.suite}.items.parquet", lambda aside: discard_result(pq.write_table(table, aside)))
        run = {
            "bertgpt": __version__, "python": platform.python_version(), "host": platform.node(),
            "seconds": round(time.time() - began, 1), "ended": time.strftime("%FT%TZ", time.gmtime()),
        }  # fmt: skip
        write_json(folder / f"{self.suite}.run.json", run)
        write_json(folder / f"{self.suite}.json", self.as_json())
