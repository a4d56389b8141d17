"""Charts as markup. Lines are SVG that stretches to any width, words stand beside it as text and keep their size.

Every chart can be read without scripts and without colours: lines differ in their dashes too, and the figures stand in
a table below. A script, where there is one, shows the figures under the pointer.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from bertgpt.reports.markup import Html, details, el, joined, table, void

DASHES = ("", "6 3", "2 3", "9 3 2 3", "12 4", "1 4")  # of one series after the other
MOST_ROWS = 40  # in the table of a chart
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """A line of a chart. Those of one `family` share a colour, and `faint` ones stand behind the others."""

    name: str
    points: Points
    family: int = 0
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over one axis, with levels that are drawn across."""

    title: str
    x: str
    y: str
    series: Sequence[Series]
    levels: dict[str, float] = field(default_factory=dict)
    log: bool = False  # both axes

    def render(self) -> Html:
        """The whole figure; nothing if there is nothing to draw."""
        series = [each for each in self.series if each.points]
        if not series:
            return Html("")
        across = Scale.fit([x for each in series for x, _ in each.points], self.log)
        up = Scale.fit([y for each in series for _, y in each.points] + list(self.levels.values()), self.log)
        marks = [line(each, across, up) for each in series] + [level(up.at(y)) for y in self.levels.values()]
        picture = el(
            "svg", *[void("path", d=f"M0 {100 - at:.2f}H100", class_="grid") for at, _ in up.ticks()], *marks,
            viewBox="0 0 100 100", preserveAspectRatio="none", role="img", aria_label=f"{self.title}, over {self.x}",
        )  # fmt: skip
        beside = [el("span", tick(v), class_="y", style=f"bottom:{at:.2f}%") for at, v in up.ticks()]
        below = [el("span", tick(v), class_="x", style=f"left:{at:.2f}%") for at, v in across.ticks()]
        said = [
            el("span", f"{name} {y:.3f}", class_="level", style=f"bottom:{up.at(y):.2f}%")
            for name, y in self.levels.items()
        ]
        plot = el("div", picture, *beside, *below, *said, class_="plot", data_series=data(series, across, up))
        return el(
            "figure", el("figcaption", el("b", self.title), f" {self.y}, over {self.x}"), plot, legend(series),
            details("figures", figures(series, self.x)), class_="chart",
        )  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """From values to percent of a side."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def fit(cls, values: Sequence[float], log: bool) -> "Scale":
        """One on which all of them lie, with some air."""
        low, high = min(values), max(values)
        if log:
            return cls(max(low, 1e-12), max(high, low * 10, 1e-11), True)
        air = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
        return cls(low - air if low else 0.0, high + air)

    def at(self, value: float) -> float:
        """Where a value lies."""
        if self.log:
            return 100 * math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return 100 * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, float]]:
        """Round values, and where they lie."""
        if self.log:
            exponents = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            values = [10.0**e for e in list(exponents)[:: max(1, len(exponents) // 4)]]
        else:
            step = round_step((self.high - self.low) / 4)
            first = math.ceil(self.low / step)
            values = [n * step for n in range(first, math.floor(self.high / step) + 1)]
        return [(self.at(value), value) for value in values]


def round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, at least as large."""
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= rough * 0.999)


def tick(value: float) -> str:
    """A round value in few letters."""
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9999:
            return f"{value / size:.4g}{unit}"
    return f"{value:.3g}"


def line(series: Series, across: Scale, up: Scale) -> Html:
    """A series as a path, or as a dot where there is one point only."""
    places = [f"{across.at(x):.2f} {100 - up.at(y):.2f}" for x, y in series.points]
    path = "M" + "L".join(places if len(places) > 1 else places * 2)
    return void("path", d=path, stroke_dasharray=None if series.faint else DASHES[series.family % 6] or None,
                class_=f"line colour{series.family % 6}" + (" faint" if series.faint else ""))  # fmt: skip


def level(at: float) -> Html:
    """A line across."""
    return void("path", d=f"M0 {100 - at:.2f}H100", class_="across")


def legend(series: Sequence[Series]) -> Html:
    """What each line is."""
    entries = []
    for each in series:
        dashes = None if each.faint else DASHES[each.family % 6] or None
        style = f"line colour{each.family % 6}" + (" faint" if each.faint else "")
        sample = el("svg", void("path", d="M0 5H34", class_=style, stroke_dasharray=dashes), class_="sample",
                    viewBox="0 0 34 10", aria_hidden="true")  # fmt: skip
        entries.append(el("li", sample, f" {each.name}: {each.points[-1][1]:.4g}"))
    return el("ul", *entries, class_="legend")


def data(series: Sequence[Series], across: Scale, up: Scale) -> str:
    """What a script needs to show figures under the pointer."""
    told = [
        {
            "name": each.name,
            "points": [[round(across.at(x), 2), round(up.at(y), 2), tick(x), f"{y:.4g}"] for x, y in each.points],
        }
        for each in series
    ]
    return json.dumps(told, ensure_ascii=True)


def figures(series: Sequence[Series], x: str) -> Html:
    """The points in figures; of many, some that are spread evenly and the last."""
    rows = []
    for each in series:
        every = max(1, math.ceil(len(each.points) / MOST_ROWS))
        some = [*each.points[::every]] + ([each.points[-1]] if (len(each.points) - 1) % every else [])
        rows += [[each.name, tick(at), f"{y:.4g}"] for at, y in some]
    return table(("", x, "value"), rows)


def interval(value: float, low: float | None, high: float | None, whole: tuple[float, float]) -> Html:
    """A value as a dot on a line that says how far it may be off."""
    scale = Scale(*whole)
    ends = (value, value) if low is None or high is None else (low, high)
    at, first, last = (min(100.0, max(0.0, scale.at(place))) for place in (value, *ends))
    bar = el("i", class_="bar", style=f"left:{first:.2f}%;width:{last - first:.2f}%")
    return el("div", bar, el("i", class_="dot", style=f"left:{at:.2f}%"), class_="interval", aria_hidden="true")


def bars(title: str, x: str, counts: Sequence[tuple[str, float]]) -> Html:
    """A histogram, each bar with its name and its figure as text."""
    most = max((count for _, count in counts), default=0) or 1
    rows = [
        el("tr", el("th", name, scope="row"), el("td", el("i", style=f"width:{100 * n / most:.2f}%"), class_="bar"),
           el("td", f"{n:,.0f}" if n == int(n) else f"{n:.2f}", class_="figure"))
        for name, n in counts
    ]  # fmt: skip
    return el("figure", el("figcaption", el("b", title), f" {x}"), el("table", joined(rows), class_="bars"))
