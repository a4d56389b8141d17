"""The page about runs: what it says is what commands wrote, and nothing that stands in a text becomes markup."""

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
from bertgpt.reports.markup import el, escaped, void

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"br", "meta", "input", "path"}
HOSTILE = "<script>alert(1)</script> [bold] \x1b[31m &amp; \u202egnp.exe"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT, a BERT, a hybrid, what was found of them, and one that was fine-tuned; all as small as can be."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("work")
    os.chdir(folder)
    try:
        bertgpt.shard(
            "tinyworld", out="shards", limit_docs=300, train_tokenizer="bpe", vocab_size=500, val_fraction=0.1
        )
        bertgpt.mask("shards", out="plan", seq_len=64)
        short: dict[str, Any] = {
            "max_steps": 4,
            "eval_every": 2,
            "tokens_per_step": 256,
            "log_every": 1,
            "device": "cpu",
        }
        bertgpt.pretrain("shards", preset="tiny-gpt", out="runs/gpt", seq_len=64, **short)
        bertgpt.pretrain("plan", preset="tiny-bert", out="runs/bert", **short)
        bertgpt.pretrain(
            "plan", preset="tiny-gpt", objective="hybrid", cross_document_attention=False, out="runs/hybrid", **short
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
        os.chdir(before)
    return folder


@pytest.fixture
def made(work: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], str]:
    """The report on them: what the command says, and the page."""
    monkeypatch.chdir(work)
    told = bertgpt.report(runs=["runs/gpt", "runs/bert", "runs/hybrid", "runs/bert-texts"], metrics_dir="figures")
    return told, Path(told["path"]).read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Notes what is open, what is fetched, and what is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.shown: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [f"{name}={value}" for name, value in attrs if name in ("src", "href", "data", "srcset")]
        self.fetched += [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.shown.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_the_table_is_what_commands_wrote(made: tuple[dict[str, Any], str], work: Path) -> None:
    told, page = made
    assert told["runs"] == ["gpt", "bert", "hybrid"]
    rows = {row["score"]: row for row in told["table"] if not row["baseline"]}
    for run in told["runs"]:
        figures = json.loads((work / "runs" / run / "metrics.json").read_text())
        for term in ("clm", "mlm"):
            [row] = [row for name, row in rows.items() if f"held-out {term} loss" in name]
            assert row["runs"].get(run, {}).get("value") == figures.get(f"val_{term}_loss")
    for run, suite in (("gpt", "lm"), ("bert", "mlm")):
        scores = json.loads((work / "results" / run / f"{suite}.json").read_text())["scores"]
        name, score = next(iter(scores.items()))
        assert rows[f"{suite}: {name}"]["runs"] == {run: score}
    assert [note.partition(" was")[0] for note in told["notes"]] == ["PARTIAL: lm", "PARTIAL: mlm"]
    shown = read(page).shown
    for row in told["table"]:
        assert row["score"] in shown
        assert all(f"{cell['value']:.3f}" in shown or f"{cell['value']:.4g}" in shown for cell in row["runs"].values())


def test_figures_for_programs_are_those_of_the_table(made: tuple[dict[str, Any], str], work: Path) -> None:
    told, _ = made
    for run in told["runs"]:
        figures = json.loads((work / "figures" / f"{run}.json").read_text())
        rows = [row for row in told["table"] if run in row["runs"] and not row["baseline"]]
        assert sorted(figures.values()) == sorted(row["runs"][run]["value"] for row in rows)
        assert len(figures) == len(rows)
    assert figures.keys() >= {"causal loss", "masked loss"}  # of the hybrid
    assert any(name.endswith("fine-tuned: accuracy") for name in json.loads((work / "figures/bert.json").read_text()))


def test_one_file_that_fetches_nothing(made: tuple[dict[str, Any], str]) -> None:
    reader = read(made[1])
    assert all(link.startswith("href=#") for link in reader.fetched)
    assert not {"img", "link", "iframe", "object", "embed"} & set(reader.tags)
    assert "url(" not in made[1]
    assert "http" not in re.sub(r'<meta http-equiv="[^"]*"', "", made[1])


def test_texts_are_no_markup(made: tuple[dict[str, Any], str]) -> None:
    """Names of labels, tokens and documents come from data."""
    reader = read(made[1])
    assert reader.tags.count("script") == 1  # ours
    assert "\x1b" not in made[1]
    assert "\u202e" not in made[1]
    assert escaped(HOSTILE) == "&lt;script&gt;alert(1)&lt;/script&gt; [bold] \\x1b[31m &amp;amp; \\u202egnp.exe"
    assert el("p", "<b>", title='">') == '<p title="&quot;&gt;">&lt;b&gt;</p>'
    assert void("path", d="M0 0", class_="line") == '<path d="M0 0" class="line"/>'


def test_all_runs_are_those_in_runs(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    told = bertgpt.report(out="all.html")
    assert told["runs"] == ["bert", "gpt", "hybrid"]
    assert any("fine-tuned" in row["score"] for row in told["table"])


def test_results_of_other_weights_are_left_out(
    work: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any], tmp_path: Path
) -> None:
    monkeypatch.chdir(work)
    shutil.copytree("results/gpt", tmp_path / "results" / "hybrid")
    done = run("report", "runs/hybrid", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "r.html"))
    assert done.code == 0
    assert "found of other weights" in done.err
    assert "lm:" not in done.out


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["runs/none"], 2, "no model found"),
        (["runs/bert-texts"], 2, "give the run that they began with too"),
        (["runs/gpt", "--out", "runs"], 4, "this is a folder"),
    ],
)
def test_what_cannot_be_reported(
    argv: list[str], code: int, said: str, work: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    monkeypatch.chdir(work)
    done = run("report", *argv)
    assert (done.code, said in done.err) == (code, True), done.err


def test_without_runs_there_is_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("report")
    assert done.code == 2
    assert "bertgpt pretrain" in done.err


def test_data_that_is_gone_is_done_without(work: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("runs/gpt", "runs/bert"):
        shutil.copytree(work / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    told = bertgpt.report()
    page = Path(told["path"]).read_text(encoding="utf-8")
    assert "What they read" not in page
    assert "How they learned" in page


def test_the_entropy_is_that_of_the_held_out_documents(made: tuple[dict[str, Any], str], work: Path) -> None:
    """A level in the chart, below every loss; by the world itself."""
    from bertgpt.data.format import TokenFile
    from bertgpt.data.tokenizers.load import load_tokenizer
    from bertgpt.tinyworld.world import World

    file, tokenizer = TokenFile(work / "shards" / "val-00000.arrow"), load_tokenizer(work / "shards" / "tokenizer")
    rows = [file.row(i).tolist() for i in range(len(file))]
    texts = [tokenizer.decode(ids[:-1]) for ids in rows]
    by_text = {document.text: document.logp for document in World(0).documents(0, 400)}
    nats = -sum(by_text[text] for text in texts) / sum(map(len, rows))
    assert f"the true entropy {nats:.3f}" in read(made[1]).shown


def test_points_lie_where_their_values_are() -> None:
    scale = Scale.fit([2.0, 10.0], log=False)
    assert scale.at(2.0) == pytest.approx(100 * 0.32 / 8.64)
    assert scale.at(10.0) > scale.at(6.0) > scale.at(2.0) > 0
    for scale in (Scale.fit([2.0, 10.0], False), Scale.fit([0.0], False), Scale.fit([1.0, 5000.0], True)):
        assert all(0 <= at <= 100 for at, _ in scale.ticks())
        assert len(scale.ticks()) >= 2
    assert [tick(v) for v in (0, 0.25, 1500, 2e6, 3e9, 4e18)] == ["0", "0.25", "1.5k", "2M", "3B", "4E"]
    drawn = Chart("t", "tokens", "loss", [Series("a", [(0.0, 3.0), (10.0, 1.0)]), Series("absent", [])]).render()
    assert "absent" not in drawn
    path = re.search(r'<path d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)" class="line', drawn)
    assert path is not None
    left, top, right, bottom = map(float, path.groups())
    assert left < right
    assert top < bottom  # a loss that falls goes down
    assert Chart("t", "x", "y", []).render() == ""


# ------------------------------------------------------------------------------------------------- in a browser

MEASURE = """
const told = [];
const wide = document.documentElement.scrollWidth - window.innerWidth;
for (const line of document.querySelectorAll("path.line")) {
  const box = line.getBoundingClientRect(), shown = getComputedStyle(line);
  if (line.closest(".plot") && line.closest(".plot").offsetParent)
    told.push({width: box.width, height: box.height, left: box.left, right: box.right, stroke: shown.stroke});
}
const plot = document.querySelector(".plot[data-series]");
const box = plot.getBoundingClientRect();
plot.dispatchEvent(new PointerEvent("pointermove", {clientX: box.right - 5, clientY: box.top + 5}));
const figures = [...document.querySelectorAll("#summary td.figure")].map((cell) => cell.textContent);
const out = document.body.appendChild(document.createElement("pre"));
out.id = "measured";
out.textContent = JSON.stringify({wide, lines: told, tip: document.querySelector(".tip").textContent, figures});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [375, 1280])
def test_in_a_browser(width: int, made: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    """No complaint, nothing wider than the window, lines that are seen, figures under the pointer."""
    told, page = made
    frame = tmp_path / "frame.html"  # a window cannot be as narrow as a telephone, but a frame can
    (tmp_path / "page.html").write_text(page.replace("</script>\n</body>", f"{MEASURE}</script>\n</body>"))
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
    found = re.search(r'<pre id="copied">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    measured = json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    assert measured["wide"] <= 0
    assert len(measured["lines"]) >= 6  # two of each run
    assert all(line["width"] > 20 and line["left"] >= 0 and line["right"] <= width for line in measured["lines"])
    assert all(line["stroke"].startswith("rgb") for line in measured["lines"])
    assert re.search(r"gpt, held out: [\d.]+ at [\d.k]+", measured["tip"])
    values = [cell["value"] for row in told["table"] for cell in row["runs"].values()]
    assert sum(figure != "-" for figure in measured["figures"]) == len(values)
