"""Several sources, shares of them, and work shared out among machines."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from bertgpt.data.format import TokenFile, read_manifest
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.tinyworld import World
from tests.conftest import Outcome

Run = Callable[..., Outcome]
OPTIONS = ["--train-tokenizer", "bpe", "--vocab-size", "500", "--train-bytes", "100k", "--shard-tokens", "100k"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three files of a few pieces each, in the folder that we are in."""
    monkeypatch.chdir(tmp_path)
    documents = World(8).documents(0, 12_000)
    for name in "abc":
        lines = (json.dumps({"text": next(documents).text}) + "\n" for _ in range(4000))
        Path(f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def texts(folder: str) -> set[str]:
    tokenizer = load_tokenizer(Path(folder, "tokenizer"))
    shards = [TokenFile(Path(folder, file["path"])) for file in read_manifest(Path(folder))["files"]]
    return {tokenizer.decode(shard.row(i)[:-1].tolist()) for shard in shards for i in range(len(shard))}


def manifest(folder: str) -> bytes:
    return Path(folder, "manifest.json").read_bytes()


# ---------------------------------------------------------------------------------------------------- array jobs


@pytest.mark.parametrize("command", ["tokenize", "shard"])
def test_tasks_in_any_order_and_then_all_together(command: str, run: Run, here: Path) -> None:
    options = OPTIONS if command == "shard" else OPTIONS[:-2]
    assert run(command, "*.jsonl", *options, "--out", "whole").code == 0
    order = list(range(5))
    random.Random(4).shuffle(order)
    for task in order:
        early = run(command, "*.jsonl", *options, "--out", "shared", "--finalize")
        assert (early.code, "error[BG315]" in early.err) == (3, True)
        share = ["--task-index", str(task), "--num-tasks", "5"]
        done = run(command, "*.jsonl", *options, "--out", "shared", *share, "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["result"]["task"] == task
        assert not Path("shared").exists()
    assert run(command, "*.jsonl", *options, "--out", "shared", "--finalize").code == 0
    assert manifest("shared") == manifest("whole")
    assert not list(here.glob(".*.work"))
    again = run(command, "*.jsonl", *options, "--out", "shared", "--task-index", "0", "--num-tasks", "5")
    assert (again.code, "nothing to do" in again.err) == (0, True)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--task-index", "0"], 2, "belong together"),
        (["--num-tasks", "3"], 2, "belong together"),
        (["--task-index", "3", "--num-tasks", "3"], 2, "there is no task 3"),
        (["--task-index", "0", "--num-tasks", "3", "--limit-docs", "5"], 2, "limits"),
    ],
)
def test_shares_that_make_no_sense(options: list[str], code: int, said: str, run: Run, here: Path) -> None:
    done = run("shard", "*.jsonl", *OPTIONS, "--out", "out", *options)
    assert (done.code, said in done.err) == (code, True), done.err


# ------------------------------------------------------------------------------------------------------- weights


def test_a_share_of_a_source_is_chosen_by_hash(run: Run, here: Path) -> None:
    assert run("shard", "a.jsonl", *OPTIONS, "--out", "whole", "--val-fraction", "0").code == 0
    tokenizer = ["--tokenizer", "whole/tokenizer", "--val-fraction", "0"]
    for share in ("0.25", "0.5"):
        assert run("shard", f"a.jsonl={share}", "b.jsonl", *tokenizer, "--out", share).code == 0
    assert run("shard", "b.jsonl", *tokenizer, "--out", "other").code == 0
    whole, other, half, quarter = texts("whole"), texts("other"), texts("0.5") - texts("other"), texts("0.25")
    quarter -= other
    assert quarter < half < whole  # more of it is the same and more
    assert abs(len(quarter) - 1000) < 120
    assert abs(len(half) - 2000) < 140
    found = read_manifest(Path("0.25"))
    assert [source.get("weight", 1) for source in found["sources"]] == [0.25, 1]
    assert found["counts"]["not_chosen"] == 4000 - len(quarter)
    assert found["sources"][0]["documents"] == len(quarter)


def test_a_share_of_a_glob_and_its_repair(run: Run, here: Path) -> None:
    done = run("shard", "*.jsonl=0.1", *OPTIONS, "--out", "out")
    assert done.code == 0, done.err
    name = read_manifest(Path("out"))["files"][0]["path"]
    content = Path("out", name).read_bytes()
    Path("out", name).unlink()
    done = run("shard", "--repair", "out")
    assert done.code == 0, done.err
    assert Path("out", name).read_bytes() == content


@pytest.mark.parametrize("share", ["0", "1.5", "-0.5", "1e9"])
def test_shares_that_cannot_be(share: str, run: Run, here: Path) -> None:
    done = run("shard", f"a.jsonl={share}", *OPTIONS, "--out", "out")
    assert (done.code, "never repeated" in done.err) == (2, True), done.err


def test_a_file_whose_name_looks_like_a_share(run: Run, here: Path) -> None:
    Path("a=0.5").mkdir()
    Path("a.jsonl").rename("a=0.5/a.jsonl")
    assert run("shard", "a=0.5", *OPTIONS, "--out", "out", "--val-fraction", "0").code == 0
    assert len(texts("out")) > 3900
