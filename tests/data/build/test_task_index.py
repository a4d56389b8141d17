"""Array jobs (--task-index), several sources, and fractions of them."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bertgpt.data.format import TokenFile, read_manifest
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.tinyworld import World
from tests.conftest import Outcome

Run = Callable[..., Outcome]
OPTIONS = ["--train-tokenizer", "bpe", "--vocab-size", "500", "--train-bytes", "100k", "--shard-tokens", "100k"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of a few input splits each."""
    folder, documents = tmp_path_factory.mktemp("files"), World(8).documents(0, 12_000)
    for name in "abc":
        lines = (json.dumps({"text": next(documents).text}) + "\n" for _ in range(4000))
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def cwd(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with copies of the files."""
    monkeypatch.chdir(shutil.copytree(files, tmp_path / "cwd"))
    return tmp_path / "cwd"


def texts(folder: str) -> set[str]:
    tokenizer = load_tokenizer(Path(folder, "tokenizer"))
    shards = [TokenFile(Path(folder, file["path"])) for file in read_manifest(Path(folder))["files"]]
    return {tokenizer.decode(shard.row(i)[:-1].tolist()) for shard in shards for i in range(len(shard))}


def manifest(folder: str) -> bytes:
    return Path(folder, "manifest.json").read_bytes()


# ---------------------------------------------------------------------------------------------------- array jobs


@pytest.mark.parametrize("command", ["tokenize", "shard"])
def test_tasks_in_any_order_then_finalize(command: str, run: Run, cwd: Path) -> None:
    options = OPTIONS if command == "shard" else OPTIONS[:-2]
    assert run(command, "*.jsonl", *options, "--out", "whole").code == 0
    order = list(range(5))
    random.Random(4).shuffle(order)
    for task in order:
        early = run(command, "*.jsonl", *options, "--out", "shared", "--finalize")
        assert (early.code, "error[BG315]" in early.err) == (3, True)
        share = ["--task-index", str(task), "--num-tasks", "5"]
        outcome = run(command, "*.jsonl", *options, "--out", "shared", *share, "--json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["result"]["task_index"] == task
        assert not Path("shared").exists()
    assert run(command, "*.jsonl", *options, "--out", "shared", "--finalize").code == 0
    assert manifest("shared") == manifest("whole")
    assert not list(cwd.glob(".*.work"))
    if command == "shard":
        name = read_manifest(Path("shared"))["files"][0]["path"]
        Path("shared", name).write_bytes(b"")
        assert run("shard", "--repair", "shared").code == 0
        assert run("inspect", "shared", "--verify").code == 0
    again = run(command, "*.jsonl", *options, "--out", "shared", "--task-index", "0", "--num-tasks", "5")
    assert (again.code, "nothing to do" in again.err) == (0, True)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--task-index", "0"], 2, "must be given together"),
        (["--num-tasks", "3"], 2, "must be given together"),
        (["--task-index", "3", "--num-tasks", "3"], 2, "there is no task 3"),
        (["--task-index", "0", "--num-tasks", "3", "--limit-docs", "5"], 2, "--limit-*"),
    ],
)
def test_invalid_task_options(options: list[str], code: int, message: str, run: Run, cwd: Path) -> None:
    outcome = run("shard", "*.jsonl", *OPTIONS, "--out", "out", *options)
    assert (outcome.code, message in outcome.err) == (code, True), outcome.err


# ------------------------------------------------------------------------------------------------------- fractions


def test_fraction_of_a_source_is_chosen_by_hash(run: Run, cwd: Path) -> None:
    assert run("shard", "a.jsonl", *OPTIONS, "--out", "whole", "--val-fraction", "0").code == 0
    tokenizer = ["--tokenizer", "whole/tokenizer", "--val-fraction", "0"]
    for share in ("0.25", "0.5"):
        assert run("shard", f"a.jsonl={share}", "b.jsonl", *tokenizer, "--out", share).code == 0
    assert run("shard", "b.jsonl", *tokenizer, "--out", "other").code == 0
    whole, other, half, quarter = texts("whole"), texts("other"), texts("0.5") - texts("other"), texts("0.25")
    quarter -= other
    assert quarter < half < whole  # a larger fraction contains the smaller one
    assert abs(len(quarter) - 1000) < 120
    assert abs(len(half) - 2000) < 140
    found = read_manifest(Path("0.25"))
    assert [source.get("weight", 1) for source in found["sources"]] == [0.25, 1]
    assert found["counts"]["not_sampled"] == 4000 - len(quarter)
    assert found["sources"][0]["documents"] == len(quarter)


def test_fraction_of_a_glob_and_its_repair(run: Run, cwd: Path) -> None:
    outcome = run("shard", "*.jsonl=0.1", *OPTIONS, "--out", "out")
    assert outcome.code == 0, outcome.err
    name = read_manifest(Path("out"))["files"][0]["path"]
    content = Path("out", name).read_bytes()
    Path("out", name).unlink()
    outcome = run("shard", "--repair", "out")
    assert outcome.code == 0, outcome.err
    assert Path("out", name).read_bytes() == content


@pytest.mark.parametrize("share", ["0", "1.5", "-0.5", "1e9"])
def test_invalid_fractions(share: str, run: Run, cwd: Path) -> None:
    outcome = run("shard", f"a.jsonl={share}", *OPTIONS, "--out", "out")
    assert (outcome.code, "never repeated" in outcome.err) == (2, True), outcome.err


def test_file_name_that_looks_like_a_fraction(run: Run, cwd: Path) -> None:
    Path("a=0.5").mkdir()
    Path("a.jsonl").rename("a=0.5/a.jsonl")
    assert run("shard", "a=0.5", *OPTIONS, "--out", "out", "--val-fraction", "0").code == 0
    assert len(texts("out")) > 3900
