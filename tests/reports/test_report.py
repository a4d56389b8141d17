"""The HTML report: it shows what commands wrote, it is one file that fetches nothing, and it escapes all text."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import bertgpt
from bertgpt.reports.charts import Chart, Scale, Series, tick
from bertgpt.reports.page import csp_hash, environment

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"br", "meta", "input", "path"}
HOSTILE = "<script>alert(1)</script> [bold] \x1b[31m &amp; \u202egnp.exe"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt; [bold] \\x1b[31m &amp;amp; \\u202egnp.exe"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny GPT, BERT and hybrid runs, evaluation results of two of them, and a fine-tuned run."""
    cwd, folder = Path.cwd(), tmp_path_factory.mktemp("work")
    os.chdir(folder)
    try:
        bertgpt.shard(
            "tinyworld", out="shards", limit_docs=300, train_tokenizer="bpe", vocab_size=500, val_fraction=0.1
        )
        bertgpt.mask("shards", out="plan", seq_len=64)
        options: dict[str, Any] = {
            "max_steps": 4,
            "eval_every": 2,
            "tokens_per_step": 256,
            "log_every": 1,
            "device": "cpu",
        }
        bertgpt.pretrain("shards", preset="test-gpt", out="runs/gpt", seq_len=64, **options)
        bertgpt.pretrain("plan", preset="test-bert", out="runs/bert", **options)
        bertgpt.pretrain(
            "plan", preset="test-gpt", objective="hybrid", cross_document_attention=False, out="runs/hybrid", **options
        )
        Path("texts.jsonl").write_text(
            "".join(
                json.dumps({"text": f"{HOSTILE} {i}", "label": "<b>yes" if i % 2 else "no"}) + "\n" for i in range(60)
            )
        )
        bertgpt.evaluate("lm", model="runs/gpt", data="tinyworld", limit=4)
        bertgpt.evaluate("mlm", model="runs/bert", data="tinyworld", limit=4)
        bertgpt.finetune("texts.jsonl", model="runs/bert", out="runs/bert-texts", epochs=1, seeds=1)
    finally:
        os.chdir(cwd)
    return folder


@pytest.fixture
def report(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], str]:
    """The report on all runs: the result of the command, and the page."""
    monkeypatch.chdir(workdir)
    result = bertgpt.report(runs=["runs/gpt", "runs/bert", "runs/hybrid", "runs/bert-texts"], metrics_dir="scores")
    return result, Path(result["path"]).read_text(encoding="utf-8")


class PageParser(HTMLParser):
    """Collects open elements, tags, references to other resources, and visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [f"{name}={value}" for name, value in attrs if name in ("src", "href", "data", "srcset")]
        self.references += [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)


def parse(page: str) -> PageParser:
    parser = PageParser()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_results_table_matches_the_files(report: tuple[dict[str, Any], str], workdir: Path) -> None:
    result, page = report
    assert result["runs"] == ["gpt", "bert", "hybrid"]
    rows = {row["score"]: row for row in result["table"] if not row["baseline"]}
    for run in result["runs"]:
        metrics = json.loads((workdir / "runs" / run / "metrics.json").read_text())
        for term, label in (("clm", "val loss, CLM (nats/token)"), ("mlm", "val loss, MLM (nats/masked token)")):
            assert rows[label]["runs"].get(run, {}).get("value") == metrics.get(f"val_{term}_loss")
    for run, suite in (("gpt", "lm"), ("bert", "mlm")):
        scores = json.loads((workdir / "results" / run / f"{suite}.json").read_text())["scores"]
        name, score = next(iter(scores.items()))
        assert rows[f"{suite}: {name}"]["runs"] == {run: score}
    assert result["notes"] == ["PARTIAL: lm evaluated on 4 items", "PARTIAL: mlm evaluated on 4 items"]
    text = parse(page).text
    for row in result["table"]:
        assert row["score"] in text
        assert all(f"{cell['value']:.3f}" in text or f"{cell['value']:.4g}" in text for cell in row["runs"].values())


def test_sections(report: tuple[dict[str, Any], str]) -> None:
    sections = re.findall(r'<section id="\w+"><h2>(.*?)</h2>', report[1])
    assert sections == [
        "Results", "Training curves", "Evaluations", "Masked predictions", "Samples", "Training data",
        "Configuration differences", "Provenance",
    ]  # fmt: skip
    assert re.findall(r'<li><a href="#\w+">(.*?)</a></li>', report[1]) == sections


def test_metrics_dir_has_the_scores_of_the_table(report: tuple[dict[str, Any], str], workdir: Path) -> None:
    result, _ = report
    for run in result["runs"]:
        scores = json.loads((workdir / "scores" / f"{run}.json").read_text())
        rows = [row for row in result["table"] if run in row["runs"] and not row["baseline"]]
        assert scores == {row["score"]: row["runs"][run]["value"] for row in rows}
        assert len(scores) == len(rows)
    assert scores.keys() >= {"val loss, CLM (nats/token)", "val loss, MLM (nats/masked token)"}  # of the hybrid
    assert any(name.endswith("fine-tuned: accuracy") for name in json.loads((workdir / "scores/bert.json").read_text()))


def test_page_is_one_file_that_fetches_nothing(report: tuple[dict[str, Any], str]) -> None:
    parser = parse(report[1])
    assert all(reference.startswith("href=#") for reference in parser.references)
    assert not {"img", "link", "iframe", "object", "embed"} & set(parser.tags)
    assert "url(" not in report[1]
    assert "http" not in re.sub(r'<meta http-equiv="[^"]*"', "", report[1])


def test_text_from_runs_is_escaped(report: tuple[dict[str, Any], str]) -> None:
    """Labels, tokens and documents come from data."""
    assert parse(report[1]).tags.count("script") == 1  # page.js
    assert "\x1b" not in report[1]
    assert "\u202e" not in report[1]
    template = environment().from_string(
        '{% import "macros.html.j2" as m %}<p title="{{ x }}">{{ x }}</p>{{ m.table([x], [[x]]) }}'
    )
    page = template.render(x=HOSTILE)
    assert page.startswith(f'<p title="{ESCAPED}">{ESCAPED}</p>')
    assert page.count(ESCAPED) == 4
    assert "<script" not in page
    assert environment().from_string("<p title='{{ x }}'>").render(x="'\">") == "<p title='&#39;&#34;&gt;'>"


def test_chart_names_are_escaped() -> None:
    draw = environment().get_template("macros.html.j2").module.chart
    svg = draw(Chart(HOSTILE, HOSTILE, HOSTILE, [Series(HOSTILE, [(0.0, 3.0), (1.0, 1.0)])], {HOSTILE: 1.0}))
    assert "<script" not in svg
    assert "\x1b" not in svg
    assert "\u202e" not in svg


def test_default_is_all_runs_in_runs(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workdir)
    result = bertgpt.report(out="all.html")
    assert result["runs"] == ["bert", "gpt", "hybrid"]
    assert any("fine-tuned" in row["score"] for row in result["table"])


def test_results_of_other_weights_are_skipped(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any], tmp_path: Path
) -> None:
    monkeypatch.chdir(workdir)
    shutil.copytree("results/gpt", tmp_path / "results" / "hybrid")
    done = run("report", "runs/hybrid", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "r.html"))
    assert done.code == 0
    assert "scores of different weights" in done.err
    assert "lm:" not in done.out


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["runs/none"], 2, "no model found"),
        (["runs/bert-texts"], 2, "add the run that they started from"),
        (["runs/gpt", "--out", "runs"], 4, "output is a folder"),
    ],
)
def test_report_errors(
    argv: list[str], code: int, message: str, workdir: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    monkeypatch.chdir(workdir)
    done = run("report", *argv)
    assert (done.code, message in done.err) == (code, True), done.err


def test_no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("report")
    assert done.code == 2
    assert "bertgpt pretrain" in done.err


def test_missing_data_is_left_out(workdir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("runs/gpt", "runs/bert"):
        shutil.copytree(workdir / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    page = Path(bertgpt.report()["path"]).read_text(encoding="utf-8")
    assert "Training data" not in page
    assert "Training curves" in page


def test_true_entropy_is_that_of_the_validation_documents(report: tuple[dict[str, Any], str], workdir: Path) -> None:
    """The level in the chart, computed here from the corpus itself."""
    from bertgpt.data.format import TokenFile
    from bertgpt.data.tokenizers.load import load_tokenizer
    from bertgpt.tinyworld.world import World

    file = TokenFile(workdir / "shards" / "val-00000.arrow")
    tokenizer = load_tokenizer(workdir / "shards" / "tokenizer")
    rows = [file.row(i).tolist() for i in range(len(file))]
    texts = [tokenizer.decode(ids[:-1]) for ids in rows]
    by_text = {document.text: document.logp for document in World(0).documents(0, 400)}
    nats = -sum(by_text[text] for text in texts) / sum(map(len, rows))
    assert f"true entropy {nats:.3f}" in parse(report[1]).text


def test_chart_geometry() -> None:
    scale = Scale.fit([2.0, 10.0], log=False)
    assert scale.at(2.0) == pytest.approx(100 * 0.32 / 8.64)
    assert scale.at(10.0) > scale.at(6.0) > scale.at(2.0) > 0
    for scale in (Scale.fit([2.0, 10.0], False), Scale.fit([0.0], False), Scale.fit([1.0, 5000.0], True)):
        assert all(0 <= at <= 100 for at, _ in scale.ticks())
        assert len(scale.ticks()) >= 2
    assert [tick(v) for v in (0, 0.25, 1500, 2e6, 3e9, 4e18)] == ["0", "0.25", "1.5k", "2M", "3B", "4E"]
    draw = environment().get_template("macros.html.j2").module.chart
    svg = draw(Chart("t", "tokens", "loss", [Series("a", [(0.0, 3.0), (10.0, 1.0)]), Series("absent", [])]))
    assert "absent" not in svg
    path = re.search(r'<path d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)" class="line', svg)
    assert path is not None
    left, top, right, bottom = map(float, path.groups())
    assert left < right
    assert top < bottom  # a falling loss goes down
    assert draw(Chart("t", "x", "y", [])).strip() == ""


# ------------------------------------------------------------------------------------------------- in a browser

MEASURE = """
const lines = [];  // beside the page's own script, which its policy allows by hash
const wide = document.documentElement.scrollWidth - window.innerWidth;
for (const line of document.querySelectorAll("path.line")) {
  const box = line.getBoundingClientRect(), shown = getComputedStyle(line);
  if (line.closest(".plot") && line.closest(".plot").offsetParent)
    lines.push({width: box.width, height: box.height, left: box.left, right: box.right, stroke: shown.stroke});
}
const plot = document.querySelector(".plot[data-series]");
const box = plot.getBoundingClientRect();
plot.dispatchEvent(new PointerEvent("pointermove", {clientX: box.right - 5, clientY: box.top + 5}));
const values = [...document.querySelectorAll("#results td.figure")].map((cell) => cell.textContent);
const out = document.body.appendChild(document.createElement("pre"));
out.id = "measured";
out.textContent = JSON.stringify({wide, lines, tip: document.querySelector(".tip").textContent, values});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [375, 1280])
def test_in_a_browser(width: int, report: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    """No console messages, no horizontal overflow, visible lines, values under the pointer."""
    result, page = report
    frame = tmp_path / "frame.html"  # a window cannot be as narrow as a phone, but a frame can
    allowed = page.replace("script-src '", f"script-src '{csp_hash(MEASURE)}' '")
    (tmp_path / "page.html").write_text(allowed.replace("</body>", f"<script>{MEASURE}</script></body>"))
    frame.write_text(
        f'<iframe id="f" src="page.html" style="width:{width}px;height:900px;border:0"></iframe>'
        '<script>onload = () => { const pre = document.body.appendChild(document.createElement("pre"));'
        'pre.id = "copied"; pre.textContent = document.getElementById("f").contentDocument'
        '.getElementById("measured").textContent; }</script>'
    )
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--allow-file-access-from-files", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=1400,1000", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    copied = re.search(r'<pre id="copied">(.*?)</pre>', done.stdout, re.DOTALL)
    assert copied, done.stdout[-2000:] + done.stderr[-2000:]
    measured = json.loads(copied[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    assert measured["wide"] <= 0
    assert len(measured["lines"]) >= 6  # two per run
    assert all(line["width"] > 20 and line["left"] >= 0 and line["right"] <= width for line in measured["lines"])
    assert all(line["stroke"].startswith("rgb") for line in measured["lines"])
    assert re.search(r"gpt, val: [\d.]+ at [\d.k]+", measured["tip"])
    values = [cell["value"] for row in result["table"] for cell in row["runs"].values()]
    assert sum(value != "-" for value in measured["values"]) == len(values)


def test_full_disk_under_stdout(runs: Path, script: str, tmp_path: Path) -> None:
    """The table is printed after the page is written, which stays."""
    with Path("/dev/full").open("wb") as full:
        argv = [script, "report", str(runs / "gpt"), "--out", str(tmp_path / "page.html")]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert (done.returncode, "error[BG402]" in done.stderr) == (4, True), done.stderr
    assert (tmp_path / "page.html").exists()
