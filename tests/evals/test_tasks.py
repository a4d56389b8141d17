"""Tasks in their published files, labeled files, and errors."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import bertgpt
from bertgpt.evals.tasks import TASKS, load_task
from bertgpt.utils.errors import BertGPTError
from tests.conftest import Outcome
from tests.fixtures.finetuning import Sheet, labeled_texts
from tests.fixtures.training import flags

Run = Callable[..., Outcome]
COLUMNS = ("text", None, "label")


def write_tsv(folder: Path, name: str, lines: Sequence[Sequence[Any]]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines), encoding="utf-8")


FILES: dict[str, tuple[list[list[Any]], tuple[Any, ...]]] = {  # lines as published; first text, second text, label
    "sst2": ([["sentence", "label"], ["a charm", 1], ["bleak \"x", 0]], ("a charm", None, "positive")),
    "cola": ([["gj04", 1, "", "We sailed."], ["gj04", 0, "*", "Sailed we the."]], ("We sailed.", None, "acceptable")),
    "mrpc": ([["\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String"], [1, 7, 8, "a b", "b a"]],
             ("a b", "b a", "equivalent")),
    "stsb": ([["index", "genre", "sentence1", "sentence2", "score"], [0, "x", "a", "b", "3.8"]], ("a", "b", 3.8)),
    "mnli": ([["index", "sentence1", "sentence2", "label1", "gold_label"], [0, "a", "b", "neutral", "contradiction"]],
             ("a", "b", "contradiction")),
    "rte": ([["index", "sentence1", "sentence2", "label"], [0, "a", "b", "not_entailment"]],
            ("a", "b", "not_entailment")),
    "qqp": ([["id", "qid1", "qid2", "question1", "question2", "is_duplicate"], [0, 1, 2, "a?", "b?", 0]],
            ("a?", "b?", "not_duplicate")),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_published_files(name: str, tmp_path: Path) -> None:
    task, (lines, expected) = TASKS[name], FILES[name]
    for file in task.files:
        write_tsv(tmp_path, f"{task.folder}/{file}", lines)
    for given in (tmp_path, tmp_path / task.folder):
        dataset = load_task(name, str(given), None, COLUMNS, "auto", None, None)
        first = dataset.test.select([0])
        assert (first.texts[0], (first.second_texts or [None])[0], first.labels[0]) == expected


def test_imdb_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            folder = tmp_path / "aclImdb" / split / label
            folder.mkdir(parents=True)
            for i in range(2):
                (folder / f"{i}_1.txt").write_text(f"{split} {label} {i}", encoding="utf-8")
    dataset = load_task("imdb", str(tmp_path), None, COLUMNS, "auto", None, None)
    assert dataset.test.texts == ["test neg 0", "test neg 1", "test pos 0", "test pos 1"]
    assert dataset.test.labels == ["neg", "neg", "pos", "pos"]
    head = load_task("imdb", str(tmp_path), None, COLUMNS, "auto", 3, None)  # sorted by class
    assert head.train.texts == ["train neg 0", "train pos 0", "train neg 1"]


def test_real_files(data: Path) -> None:
    for name, sizes in (("sst2", (67349, 872)), ("cola", (8551, 1043)), ("agnews", (25013, 7600))):
        dataset = load_task(name, str(data), None, COLUMNS, "auto", None, None)
        assert (len(dataset.train), len(dataset.test)) == sizes
        assert {str(label) for label in dataset.train.labels} == set(dataset.classes)


def error_of(name: str, folder: Path) -> BertGPTError:
    with pytest.raises(BertGPTError) as raised:
        load_task(name, str(folder), None, COLUMNS, "auto", None, None)
    return raised.value


def test_malformed_published_files(tmp_path: Path) -> None:
    swapped = [["gj04", "We sailed.", "", 1], ["gj04", "Sailed we the.", "*", 0]]
    for split in ("train", "dev"):
        write_tsv(tmp_path, f"CoLA/{split}.tsv", swapped)
    error = error_of("cola", tmp_path)
    assert error.code == "BG322"
    assert "'We sailed.'" in str(error)
    assert "order" in str(error)
    write_tsv(tmp_path, "SST-2/train.tsv", [["sentence", "label"], ["a", 1]])
    assert error_of("sst2", tmp_path).code == "BG211"  # no dev.tsv
    write_tsv(tmp_path, "SST-2/dev.tsv", [["sentence", "label"], ["a", -1]])
    assert "labels are hidden" in str(error_of("sst2", tmp_path))
    write_tsv(tmp_path, "SST-2/dev.tsv", [["sentence", "mark"], ["a", 1]])
    assert error_of("sst2", tmp_path).code == "BG212"
    write_tsv(tmp_path, "SST-2/dev.tsv", [["sentence", "label"], ["a", 1, 2]])
    assert error_of("sst2", tmp_path).code == "BG303"
    for split in ("train", "dev"):
        write_tsv(tmp_path, f"STS-B/{split}.tsv", [["sentence1", "sentence2", "score"], ["a", "b", "much"]])
    assert "numbers" in str(error_of("stsb", tmp_path))


BAD_FILES: list[tuple[list[Any], dict[str, Any], str, str]] = [
    (labeled_texts(), {"text_column": "txet"}, "BG212", "text"),
    (labeled_texts(), {"pair_column": "other"}, "BG212", "other"),
    ([(text, "same") for text, _ in labeled_texts()], {}, "BG322", "one class"),
    ([(text, -1 if i == 3 else i % 2) for i, (text, _) in enumerate(labeled_texts())], {}, "BG322", "no label"),
    (labeled_texts(), {"problem_type": "regression"}, "BG322", "numbers"),
    ([], {}, "BG310", "no rows"),
    (labeled_texts(3), {}, "BG3", ""),
    ([(text, "rare" if i == 4 else label) for i, (text, label) in enumerate(labeled_texts())], {}, "BG322", "rare"),
]


@pytest.mark.parametrize(("rows", "options", "code", "word"), BAD_FILES)
def test_bad_labeled_files(
    rows: list[Any], options: dict[str, Any], code: str, word: str, sheet: Sheet, tmp_path: Path, run: Run,
    bases: dict[str, Path],
) -> None:  # fmt: skip
    out = tmp_path / "x"
    done = run(
        "finetune", str(sheet(rows)), "--model", str(bases["bert"]), "--out", str(out), *flags(options), "--json"
    )
    error = json.loads(done.out)["error"]
    assert error["code"].startswith(code)
    assert word in json.dumps(error)
    assert not out.exists()


def test_pretrain_run_is_not_overwritten(run: Run, sheet: Sheet, judge: Path, tmp_path: Path) -> None:
    """Neither by finetune, nor a fine-tuned run by pretrain: the folder would mix their files."""
    source, out = str(tmp_path / "shards"), tmp_path / "run"
    bertgpt.shard("tinyworld", out=source, limit_docs=24, train_tokenizer="bpe", vocab_size=400, val_fraction=0.4)
    options = {"preset": "test-gpt", "seq_len": 32, "tokens_per_step": 64, "max_steps": 1, "device": "cpu"}
    bertgpt.pretrain(source, out=str(out), **options)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    argv = ["finetune", str(sheet(labeled_texts())), "--model", str(out), "--no-random-baseline", "--out"]
    assert "error[BG213]" in run(*argv, str(out)).err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert "error[BG404]" in run(*argv, str(tmp_path / "t.csv"), "--dry-run").err
    assert "error[BG213]" in run("pretrain", source, "--out", str(judge), *flags(options)).err


def test_fine_tuned_model_is_not_a_language_model(run: Run, judge: Path) -> None:
    for argv in (["generate", "--prompt", "x"], ["eval", "tinyworld"], ["eval", "mlm", "--data", "tinyworld"]):
        done = run(*argv, "--model", str(judge))
        assert "error[BG222]: model was fine-tuned for t.csv" in done.err, argv
    assert "# t.csv\n" in run("inspect", str(judge)).out


def test_compare_fine_tuned_models(run: Run, judge: Path) -> None:
    assert "not distinguishable" in run("eval", "compare", str(judge), str(judge)).out


def test_unknown_tasks_and_bad_options(run: Run, bases: dict[str, Path], judge: Path, tmp_path: Path) -> None:
    def code(*argv: str) -> tuple[str, str]:
        error = json.loads(run(*argv, "--json").out)["error"]
        return error["code"], error["hint"] or ""

    bert = str(bases["bert"])
    assert code("finetune", "sst", "--model", bert, "--out", str(tmp_path / "x")) == ("BG211", "did you mean sst2?")
    assert code("eval", "topic", "--model", bert)[0] == "BG222"
    assert code("eval", "topic", "--model", str(judge), "--limit", "20")[0] == "BG222"
    assert code("eval", "predict", "--model", str(judge))[0] == "BG203"
    argv = ("finetune", "topic", "--limit", "60", "--model", bert, "--out", str(tmp_path / "x"))
    assert code(*argv, "--freeze-layers", "9")[0] == "BG204"
    assert code(*argv, "--batch-size", "8", "--micro-batch-size", "3")[0] == "BG204"


def test_text_pairs(sheet: Sheet) -> None:
    rows = [(text, "again", label) for text, label in labeled_texts()]
    file = sheet(rows, ("text", "then", "label"))
    dataset = load_task(str(file), None, None, ("text", "then", "label"), "auto", None, None)
    assert dataset.train.second_texts is not None
    assert dataset.train.joined_texts()[0].endswith("again")


def test_classes_of_a_file(sheet: Sheet) -> None:
    """Few distinct integers are class names; fractions or many integers are a regression task."""
    for values, classes in (
        (range(2), ("0", "1")),
        ([0.5, 1, 2.0], ()),
        (range(61), ()),
        (["10", "9"], ("9", "10")),
    ):
        rows = [(f"text {i}", list(values)[i % len(list(values))]) for i in range(300)]
        assert load_task(str(sheet(rows)), None, None, COLUMNS, "auto", None, None).classes == classes
