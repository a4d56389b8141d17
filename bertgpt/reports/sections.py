"""The parts of the page, each from what was gathered."""

import re
from collections.abc import Sequence
from typing import Any

from bertgpt.reports.charts import Chart, Series, bars, interval
from bertgpt.reports.data import DatasetSummary
from bertgpt.reports.markup import Html, details, el, joined, table, void
from bertgpt.reports.runs import ReportRun
from bertgpt.reports.scores import Row, baselines_of, config_diff, partial, shown_cell

UNITS = {"tokens": "tokens", "time": "seconds of training", "FLOPs": "FLOPs"}
TERMS = {"clm": "CLM", "mlm": "MLM", "nsp": "NSP"}
KINDS = {"clm": "a GPT: it goes on with text", "mlm": "a BERT: it fills gaps", "hybrid": "both in one model"}


def run_cards(runs: Sequence[ReportRun]) -> Html:
    """Who they are."""
    told = [
        el("li", el("b", run.name), void("br"), KINDS[run.kept.objective], void("br"),
           f"{run.kept.model.num_parameters():,} weights, {run.shape}", void("br"),
           f"{run.figures['tokens']:,} tokens in {run.figures['steps']:,} steps" if "steps" in run.figures else "")
        for run in runs
    ]  # fmt: skip
    return el("ul", *told, class_="cards")


def summary(runs: Sequence[ReportRun], rows: Sequence[Row]) -> Html:
    """The one table."""
    body = [
        el("tr", el("td", row.score), *(el("td", shown_cell(row, run.name), class_="figure") for run in runs),
           class_="beside" if row.baseline else "head")
        for row in rows
    ]  # fmt: skip
    head = el("tr", el("th", ""), *(el("th", run.name, class_="figure", scope="col") for run in runs))
    whole = el("div", el("table", el("thead", head), el("tbody", *body)), class_="wide", tabindex="0")
    return joined([whole, *(el("p", note) for note in partial(runs))])


def curves(runs: Sequence[ReportRun], floors: dict[str, float]) -> Html:
    """Losses over tokens, time and FLOPs. Training is drawn behind what was held out."""
    pages = []
    for axis, unit in UNITS.items():
        charts = []
        for term, title in TERMS.items():
            series = []
            for i, run in enumerate(runs):
                for split, said, faint in (("train", "training", True), ("val", "held out", False)):
                    points = run.points(split, f"{term}_loss", axis)
                    series.append(Series(f"{run.name}, {said}", points, i, faint))
            levels = floors if term == "clm" else {}
            charts.append(Chart(title, unit, "loss in nats", series, levels).render())
        drawn = [chart for chart in charts if chart]
        if drawn:
            pages.append((axis, el("div", *drawn, class_=f"grid2 over-{axis}")))
    if not pages:
        return el("p", "None of these models was trained here.")
    switches = [
        piece
        for i, (axis, _) in enumerate(pages)
        for piece in (
            void("input", type="radio", name="axis", id=f"over-{axis}", checked="" if i == 0 else None),
            el("label", f"over {axis}", for_=f"over-{axis}"),
        )
    ]
    return el("div", *switches, *(page for _, page in pages), class_="axes")


def evaluations(runs: Sequence[ReportRun]) -> Html:
    """Every score of every suite, run beside run, with its interval and its baselines."""
    suites: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for run in runs:
        for found in run.found:
            suites.setdefault(found["suite"], []).append((run.name, found))
        for found in run.tuned:
            suites.setdefault(f"{found['suite']}, fine-tuned", []).append((run.name, found))
    if not suites:
        return el("p", "Nothing was evaluated: bertgpt eval tinyworld --model RUN does that without a network.")
    return joined(of_suite(name, each) for name, each in suites.items())


def of_suite(name: str, each: Sequence[tuple[str, dict[str, Any]]]) -> Html:
    """One of them."""
    first = each[0][1]
    partial = "PARTIAL, " if any(found["partial"] for _, found in each) else ""
    rows = []
    for score in dict.fromkeys(score for _, found in each for score in found["scores"]):
        having = [(run, found) for run, found in each if score in found["scores"]]
        rows += beside_each_other("head", score, [(run, found["scores"][score]) for run, found in having])
        for other in dict.fromkeys(other for _, found in having for other in baselines_of(found, score)):
            cells = [
                (run, baselines_of(found, score)[other]) for run, found in having if other in baselines_of(found, score)
            ]
            rows += beside_each_other("beside", other, cells)
    head = el("tr", *(el("th", title, scope="col", class_="figure" if title in ("value", "95 %") else "words")
                      for title in ("", "run", "value", "95 %", "")))  # fmt: skip
    notes = dict.fromkeys(f"{run}: {note}" for run, found in each for note in found["notes"])
    return joined([
        el("h3", name),
        el("p", f"{partial}{first['n']:,} items, {first['definition']}. Lighter rows are baselines."),
        el("div", el("table", el("thead", head), el("tbody", *rows)), class_="wide", tabindex="0"),
        *(el("p", note) for note in notes),
    ])  # fmt: skip


def beside_each_other(kind: str, name: str, cells: Sequence[tuple[str, dict[str, Any]]]) -> list[Html]:
    """A row for each run, all drawn on the same scale."""
    whole = axis_range([cell for _, cell in cells])
    rows = []
    for i, (run, cell) in enumerate(cells):
        value, low, high = (cell[key] for key in ("value", "low", "high"))
        off = "" if low is None else f"{number(low)} to {number(high)}"
        drawn = interval(value, low, high, whole)
        told = (el("td", text, class_="figure") for text in (number(value), off))
        rows.append(el("tr", el("td", name if i == 0 else ""), el("td", run), *told, el("td", drawn), class_=kind))
    return rows


def axis_range(cells: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """The ends of the line that scores of one kind are drawn on: 0 and 1, if all lie between."""
    values = [value for cell in cells for value in cell.values() if value is not None]
    low, high = min(0.0, *values), max(1.0, *values)
    return low, high


def number(value: float) -> str:
    """A score."""
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"


def predictions(name: str, quizzes: Sequence[dict[str, Any]]) -> Html:
    """Texts with hidden words, found or missed, and what else was likely there."""
    told = []
    for quiz in quizzes:
        told.append(el("div", *map(masked_segment, quiz["segments"]), class_="text"))
        original = {mask["place"]: mask for mask in quiz["masks"]}
        rows = [
            [str(i), "found" if mask["correct"] else "missed",
             ", ".join(f"{each['text'].strip() or repr(each['text'])} {each['probability']:.2f}"
                       for each in mask["candidates"])]
            for i, mask in enumerate(original.values(), 1)
        ]  # fmt: skip
        right = sum(mask["correct"] for mask in quiz["masks"])
        told.append(
            details(f"{right} of {len(rows)} hidden tokens found; the likeliest for each",
                    table(("hidden", "", "likeliest, with probability"), rows, words=3))
        )  # fmt: skip
    return joined([el("h3", name), *told])


def masked_segment(part: dict[str, Any]) -> Html:
    """A stretch of such a text. A sign says what the colour says."""
    text = str(part["text"])
    if "guess" not in part:
        return joined([text])
    space = text[: len(text) - len(text.lstrip())]
    word, guess = text[len(space) :], str(part["guess"]).strip()
    if part["correct"]:
        return joined([space, el("span", f"✓ {word}", class_="found", title="hidden, and found")])
    missed = el("span", "✗ ", el("s", guess), f" {word}", class_="missed", title=f"hidden, and taken for {guess}")
    return joined([space, missed])


def samples(name: str, texts: Sequence[str]) -> Html:
    """What a model wrote."""
    return joined([el("h3", name), *(el("div", text, class_="text") for text in texts)])


def data(found: DatasetSummary) -> Html:
    """What models were trained on."""
    manifest = found.manifest
    keys = ("documents", "tokens", "bytes")
    rows = [[name, *(f"{part.get(key, 0):,}" for key in keys)] for name, part in manifest["splits"].items()]
    lengths = ", ".join(f"{name} {n:,}" for name, n in found.quantiles.items())
    sources = ", ".join(source["name"] for source in manifest["sources"][:5])
    more = len(manifest["sources"]) - 5
    common = [(re.sub(r"\n", "⏎", token).replace(" ", "␣"), 100 * share) for token, share in found.common]
    ranks = Chart("How often the n-th token occurs", "rank", "times", [Series("tokens", found.ranks)], log=True)
    return joined([
        el("h3", str(found.path)),
        el("p", f"From {sources}{f' and {more:,} more' if more > 0 else ''}. Tokens in a document: {lengths}."),
        table(("split", *keys), rows),
        el("div", el("div", bars("Lengths", "documents by their tokens", found.lengths), ranks.render()),
           bars("Common tokens", f"percent of {found.counted:,} tokens; ␣ is a space", common), class_="grid2"),
        *map(document, found.examples),
        *map(planned, found.rows),
    ])  # fmt: skip


def document(tokens: Sequence[str]) -> Html:
    """A document, its tokens apart."""
    apart = el("div", *(el("span", token) for token in tokens), class_="text ids")
    return details(f"a held-out document in its {len(tokens)} tokens", apart)


def planned(row: dict[str, Any]) -> Html:
    """A row that a BERT is trained on."""
    shown = el("div", *map(mask_plan_segment, row["segments"]), class_="text")
    return details("a row of the plan, with what is hidden of it", shown)


def mask_plan_segment(part: dict[str, Any]) -> Html:
    """A stretch of it."""
    text = str(part["text"])
    if "hidden" not in part:
        return joined([text])
    said = {"mask": "hidden", "kept": "asked for", "other": f"shown as {part.get('shown', '').strip()}"}[part["hidden"]]
    return el("span", f"{text.strip()} ({said})", class_="hidden")


def settings(runs: Sequence[ReportRun]) -> Html:
    """In what runs differ."""
    rows = [[key, *values] for key, values in config_diff(runs)]
    if len(runs) < 2 or not rows:
        return el("p", "There is nothing in which they differ." if len(runs) > 1 else "There is one run only.")
    return table(("", *(run.name for run in runs)), rows, words=len(runs) + 1)


def origins(runs: Sequence[ReportRun]) -> Html:
    """Where, when and from what."""
    keys = ("begun", "bertgpt", "torch", "python", "host", "device", "precision", "threads", "world")
    rows = [[key, *(str(run.facts.get(key, "-")) for run in runs)] for key in keys]
    hashes = {
        "weights": [run.weights for run in runs],
        "tokenizer": [run.kept.tokenizer.fingerprint for run in runs],
        "data": [str(run.settings.get("data_sha256", "-")) for run in runs],
    }
    rows += [[name, *(el("code", value[:16], title=value) for value in values)] for name, values in hashes.items()]
    commands = [details(f"how {run.name} was begun", el("code", " ".join(argv))) for run in runs
                if (argv := run.facts.get("argv"))]  # fmt: skip
    return joined([table(("", *(run.name for run in runs)), rows, words=len(runs) + 1), *commands])
