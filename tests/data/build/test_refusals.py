"""What `tokenize`, `shard` and `inspect` refuse before any work: wrong sources, outputs, options and other writers."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertgpt.utils.files import lock, sha256_of

WORLD = ("tinyworld", "--limit-docs", "300", "--train-tokenizer", "bpe", "--vocab-size", "400")
TEXT = ("t.txt", "--train-tokenizer", "bpe", "--vocab-size", "300")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a text and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BERTGPT_WORK", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("some words\n\nother words\n\nmore words")
    return tmp_path


@pytest.fixture
def fails(run: Callable[..., Any]) -> Callable[..., None]:
    """Run a command line that fails with a code, and with these words in what it says."""

    def running(code: str, argv: tuple[str, ...] | list[str], *words: str) -> None:
        done = run(*argv, "--json")
        error = json.loads(done.out)["error"]
        said = " ".join(str(detail) for detail in error.values())
        assert (error["code"], done.code) == (code, int(code[2])), said
        for word in words:
            assert word in said

    return running


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


WRONG: dict[str, tuple[str, list[str], str]] = {
    "a source twice": ("BG211", ["t.txt", "./t.txt", *TEXT[1:], "--out", "new"], "source given twice"),
    "a glob that matches nothing": ("BG211", ["*.csv", *TEXT[1:], "--out", "new"], "*.csv"),
    "a folder without text": ("BG211", ["empty", *TEXT[1:], "--out", "new"], "no readable text file"),
    "no source": ("BG203", [*TEXT[1:], "--out", "new"], "SOURCE"),
    "a world without end": ("BG203", ["tinyworld", *TEXT[1:], "--out", "new"], "--limit-docs"),
    "no tokenizer": ("BG203", ["t.txt", "--out", "new"], "neither --tokenizer nor --train-tokenizer"),
    "two tokenizers": ("BG203", [*TEXT, "--tokenizer", "gpt2", "--out", "new"], "both are given"),
    "no size": ("BG203", ["t.txt", "--train-tokenizer", "bpe", "--out", "new"], "--vocab-size"),
    "no output": ("BG203", [*TEXT], "--out"),
    "no such tokenizer": ("BG211", ["t.txt", "--tokenizer", "no/such", "--out", "new"], "no/such"),
    "an output below a file": ("BG404", [*TEXT, "--out", "t.txt/new"], "t.txt"),
    "an output deep below a file": ("BG404", [*TEXT, "--out", "t.txt/a/b/new"], "t.txt"),
    "an output that is a file": ("BG404", [*TEXT, "--out", "t.txt"], "t.txt"),
    "an output where none can be": ("BG404", [*TEXT, "--out", "/proc/new"], "/proc"),
}


@pytest.mark.parametrize("command", ["tokenize", "shard"])
@pytest.mark.parametrize("case", WRONG)
def test_refused_before_any_work(case: str, command: str, here: Path, fails: Any) -> None:
    """F16, F20."""
    (here / "empty").mkdir()
    before = contents(here)
    code, argv, words = WRONG[case]
    fails(code, [command, *argv], words)
    assert contents(here) == before
    assert not [path for path in here.iterdir() if path.name not in ("t.txt", "empty", "cache")]


def test_splits_that_leave_nothing_are_refused_before_any_work(here: Path, fails: Any) -> None:
    fails(
        "BG204", ["shard", *TEXT, "--out", "new", "--val-fraction", "0.6", "--test-fraction", "0.5"], "--val-fraction"
    )
    assert [path.name for path in here.iterdir()] == ["t.txt"]


def test_tokenizer_options_are_looked_at_before_sources_are_read(
    here: Path, fails: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertgpt.data.sources import source

    monkeypatch.setattr(source, "sha256_of", lambda path: pytest.fail("the source was read"))
    fails("BG203", ["shard", "t.txt", "--out", "new"], "neither --tokenizer nor --train-tokenizer")


@pytest.mark.parametrize("command", ["tokenize", "shard"])
def test_an_output_that_was_made_otherwise(command: str, here: Path, run: Any, fails: Any) -> None:
    assert run(command, *WORLD, "--out", "new").code == 0
    before = contents(here / "new")
    fails("BG213", [command, *WORLD, "--out", "new", "--limit-docs", "200"], "limit.documents was 300, is now 200")
    fails("BG213", [command, *TEXT, "--out", "new"], "--overwrite")
    assert contents(here / "new") == before
    done = run(command, *WORLD, "--out", "new")
    assert (done.code, contents(here / "new")) == (0, before)
    assert "nothing to do" in done.err
    assert run(command, *WORLD, "--out", "new", "--limit-docs", "200", "--overwrite").code == 0
    assert json.loads((here / "new" / "manifest.json").read_text())["counts"]["documents"] == 200
    assert run(command, *WORLD, "--out", "new", "--overwrite").code == 0
    after = contents(here / "new")
    assert {**after, "run.json": ""} == {**before, "run.json": ""}
    assert not [path for path in here.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("fresh", [(), ("--overwrite",)])
def test_a_folder_that_is_none_of_ours_is_left_alone(fresh: tuple[str, ...], here: Path, fails: Any) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "thesis.tex").write_text("the only copy")
    fails("BG213", ["shard", *TEXT, "--out", "mine", *fresh], "none of ours")
    assert (here / "mine" / "thesis.tex").read_text() == "the only copy"


def test_an_empty_folder_may_become_the_output(here: Path, run: Any) -> None:
    (here / "new").mkdir()
    assert run("shard", *TEXT, "--out", "new/").code == 0
    assert run("inspect", "new", "--verify").code == 0


def test_a_document_that_is_not_there(here: Path, run: Any, fails: Any) -> None:
    assert run("shard", *TEXT, "--out", "new").code == 0
    assert run("inspect", "new", "--doc", "2").code == 0
    fails("BG215", ["inspect", "new", "--doc", "3"], "0 to 2")


def test_inspecting_what_is_no_artefact(here: Path, fails: Any) -> None:
    fails("BG307", ["inspect", "."], "no manifest")
    fails("BG210", ["inspect", "tokns"])


@pytest.mark.parametrize("command", ["tokenize", "shard"])
def test_another_writer_is_not_disturbed(command: str, here: Path, run: Any, fails: Any) -> None:
    with lock(here / ".new.work" / "lock", "new"):
        fails("BG601", [command, *TEXT, "--out", "new"], "new", "pid ")
        assert run(command, *TEXT, "--out", "another").code == 0
    assert run(command, *TEXT, "--out", "new").code == 0


def test_the_lock_of_a_process_that_is_gone_is_free(here: Path, run: Any) -> None:
    script = "import os, pathlib, bertgpt.utils.files as f\nf.lock(pathlib.Path('.new.work/lock'), 'new').__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert (here / ".new.work" / "lock").exists()
    assert run("shard", *TEXT, "--out", "new").code == 0
    assert not (here / ".new.work").exists()


def test_a_repair_waits_for_no_other_writer(here: Path, run: Any, fails: Any) -> None:
    assert run("shard", *TEXT, "--out", "new").code == 0
    (here / "new" / "train-00000.arrow").unlink()
    with lock(here / ".new.work" / "lock", "new"):
        fails("BG601", ["shard", "--repair", "new"])
    assert run("shard", "--repair", "new").code == 0


def test_a_repair_of_a_source_that_changed(here: Path, run: Any, fails: Any) -> None:
    assert run("shard", *TEXT, "--out", "new").code == 0
    (here / "new" / "train-00000.arrow").unlink()
    (here / "moved").mkdir()
    moved = (here / "t.txt").rename(here / "moved" / "t.txt")
    fails("BG211", ["shard", "--repair", "new"], "t.txt")
    assert run("shard", "moved/t.txt", "--repair", "new").code == 0
    (here / "new" / "train-00000.arrow").unlink()
    moved.write_text("something else")
    fails("BG305", ["shard", "moved/t.txt", "--repair", "new"], "sha256")
