"""Line charts for the report: scales, ticks and SVG paths. `templates/charts.html.j2` draws them.

The SVG stretches to any width. Labels are HTML beside it and keep their size. A chart is readable without scripts and
without color: lines also differ in their dashes, and a table below holds the values.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

STYLES = 6  # colors and dashes of page.css
MAX_ROWS = 40  # of one series, in the table below a chart
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """One line of a chart. Series of one `style` share a color; `faint` ones are drawn thin."""

    name: str
    points: Points
    style: int = 0
    faint: bool = False

    @property
    def css(self) -> str:
        """CSS classes of the line."""
        return f"line style{self.style % STYLES}{' faint' * self.faint}"


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis: maps values to percent of its length."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def fit(cls, values: Sequence[float], log: bool) -> "Scale":
        """An axis that holds all values, with a margin if it is linear."""
        low, high = min(values), max(values)
        if log:
            return cls(max(low, 1e-12), max(high, low * 10, 1e-11), True)
        margin = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
        return cls(low - margin if low else 0.0, high + margin)

    def at(self, value: float) -> float:
        """Position of a value in percent."""
        if self.log:
            return 100 * math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return 100 * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, float]]:
        """Positions and values of the ticks, which are round numbers."""
        if self.log:
            exponents = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            values = [10.0**e for e in exponents[:: max(1, len(exponents) // 4)]]
        else:
            step = round_step((self.high - self.low) / 4)
            values = [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [(self.at(value), value) for value in values]


@dataclass(frozen=True)
class Chart:
    """Lines over one axis, and horizontal reference levels."""

    title: str
    x: str
    y: str
    series: Sequence[Series]
    levels: dict[str, float] = field(default_factory=dict)
    log: bool = False  # both axes

    @cached_property
    def nonempty(self) -> list[Series]:
        """The series that have points. A chart without any is not drawn."""
        return [series for series in self.series if series.points]

    @cached_property
    def x_scale(self) -> Scale:
        """The horizontal axis."""
        return Scale.fit([x for series in self.nonempty for x, _ in series.points], self.log)

    @cached_property
    def y_scale(self) -> Scale:
        """The vertical axis."""
        return Scale.fit(
            [y for series in self.nonempty for _, y in series.points] + list(self.levels.values()), self.log
        )

    def path(self, series: Series) -> str:
        """SVG path of a series; a single point becomes a dot."""
        points = [f"{self.x_scale.at(x):.2f} {100 - self.y_scale.at(y):.2f}" for x, y in series.points]
        return "M" + "L".join(points if len(points) > 1 else points * 2)

    def rows(self) -> list[tuple[str, str, str]]:
        """Values for the table: of each series at most `MAX_ROWS` evenly spaced points, and the last one."""
        rows = []
        for series in self.nonempty:
            every, last = max(1, math.ceil(len(series.points) / MAX_ROWS)), len(series.points) - 1
            points = [point for i, point in enumerate(series.points) if i % every == 0 or i == last]
            rows += [(series.name, tick(x), f"{y:.4g}") for x, y in points]
        return rows

    def pointer_data(self) -> str:
        """JSON for page.js, which shows the values under the pointer."""
        x_at, y_at = self.x_scale.at, self.y_scale.at
        return json.dumps([
            {
                "name": series.name,
                "points": [[round(x_at(x), 2), round(y_at(y), 2), tick(x), f"{y:.4g}"] for x, y in series.points],
            }
            for series in self.nonempty
        ])  # fmt: skip


def round_step(rough: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is at least `rough`."""
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= rough * 0.999)


def tick(value: float) -> str:
    """A tick label: 1500 is 1.5k."""
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9999:
            return f"{value / size:.4g}{unit}"
    return f"{value:.3g}"
