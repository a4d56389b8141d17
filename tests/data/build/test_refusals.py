"""Errors of `tokenize`, `shard` and `inspect` before any work: bad sources, outputs, options, concurrent writers."""

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
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a text file, and an own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BERTGPT_WORK", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("some words\n\nother words\n\nmore words")
    return tmp_path


@pytest.fixture
def fails(run: Callable[..., Any]) -> Callable[..., None]:
    """Run a command line that must fail with this code, and with these words in the error."""

    def check(code: str, argv: tuple[str, ...] | list[str], *words: str) -> None:
        outcome = run(*argv, "--json")
        error = json.loads(outcome.out)["error"]
        message = " ".join(str(detail) for detail in error.values())
        assert (error["code"], outcome.code) == (code, int(code[2])), message
        for word in words:
            assert word in message

    return check


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


INVALID: dict[str, tuple[str, list[str], str]] = {
    "a source given twice": ("BG211", ["t.txt", "./t.txt", *TEXT[1:], "--out", "new"], "source given twice"),
    "a glob that matches nothing": ("BG211", ["*.csv", *TEXT[1:], "--out", "new"], "*.csv"),
    "a folder without text": ("BG211", ["empty", *TEXT[1:], "--out", "new"], "no readable text file"),
    "no source": ("BG203", [*TEXT[1:], "--out", "new"], "SOURCE"),
    "tinyworld without a limit": ("BG203", ["tinyworld", *TEXT[1:], "--out", "new"], "--limit-docs"),
    "no tokenizer": ("BG203", ["t.txt", "--out", "new"], "neither --tokenizer nor --train-tokenizer"),
    "two tokenizers": ("BG203", [*TEXT, "--tokenizer", "gpt2", "--out", "new"], "both are given"),
    "no vocabulary size": ("BG203", ["t.txt", "--train-tokenizer", "bpe", "--out", "new"], "--vocab-size"),
    "no output": ("BG203", [*TEXT], "--out"),
    "no such tokenizer": ("BG211", ["t.txt", "--tokenizer", "no/such", "--out", "new"], "no/such"),
    "an output inside a file": ("BG404", [*TEXT, "--out", "t.txt/new"], "t.txt"),
    "an output deep inside a file": ("BG404", [*TEXT, "--out", "t.txt/a/b/new"], "t.txt"),
    "an output that is a file": ("BG404", [*TEXT, "--out", "t.txt"], "t.txt"),
    "an output that cannot be created": ("BG404", [*TEXT, "--out", "/proc/new"], "/proc"),
}


@pytest.mark.parametrize("command", ["tokenize", "shard"])
@pytest.mark.parametrize("case", INVALID)
def test_refused_before_any_work(case: str, command: str, cwd: Path, fails: Any) -> None:
    (cwd / "empty").mkdir()
    before = contents(cwd)
    code, argv, words = INVALID[case]
    fails(code, [command, *argv], words)
    assert contents(cwd) == before
    assert not [path for path in cwd.iterdir() if path.name not in ("t.txt", "empty", "cache")]


def test_splits_that_leave_nothing_for_training(cwd: Path, fails: Any) -> None:
    fails(
        "BG204", ["shard", *TEXT, "--out", "new", "--val-fraction", "0.6", "--test-fraction", "0.5"], "--val-fraction"
    )
    assert [path.name for path in cwd.iterdir()] == ["t.txt"]


def test_tokenizer_options_are_checked_before_sources_are_read(
    cwd: Path, fails: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertgpt.data.sources import source

    monkeypatch.setattr(source, "sha256_of", lambda path: pytest.fail("the source was read"))
    fails("BG203", ["shard", "t.txt", "--out", "new"], "neither --tokenizer nor --train-tokenizer")


@pytest.mark.parametrize("command", ["tokenize", "shard"])
def test_output_exists_with_different_options(command: str, cwd: Path, run: Any, fails: Any) -> None:
    assert run(command, *WORLD, "--out", "new").code == 0
    before = contents(cwd / "new")
    fails("BG213", [command, *WORLD, "--out", "new", "--limit-docs", "200"], "limit.documents was 300, is now 200")
    fails("BG213", [command, *TEXT, "--out", "new"], "--overwrite")
    assert contents(cwd / "new") == before
    outcome = run(command, *WORLD, "--out", "new")
    assert (outcome.code, contents(cwd / "new")) == (0, before)
    assert "nothing to do" in outcome.err
    assert run(command, *WORLD, "--out", "new", "--limit-docs", "200", "--overwrite").code == 0
    assert json.loads((cwd / "new" / "manifest.json").read_text())["counts"]["documents"] == 200
    assert run(command, *WORLD, "--out", "new", "--overwrite").code == 0
    after = contents(cwd / "new")
    assert {**after, "run.json": ""} == {**before, "run.json": ""}
    assert not [path for path in cwd.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_foreign_folder_is_never_overwritten(overwrite: tuple[str, ...], cwd: Path, fails: Any) -> None:
    (cwd / "mine").mkdir()
    (cwd / "mine" / "thesis.tex").write_text("the only copy")
    fails("BG213", ["shard", *TEXT, "--out", "mine", *overwrite], "not created by bertgpt")
    assert (cwd / "mine" / "thesis.tex").read_text() == "the only copy"


def test_empty_folder_may_become_the_output(cwd: Path, run: Any) -> None:
    (cwd / "new").mkdir()
    assert run("shard", *TEXT, "--out", "new/").code == 0
    assert run("inspect", "new", "--verify").code == 0


def test_no_such_document(cwd: Path, run: Any, fails: Any) -> None:
    assert run("shard", *TEXT, "--out", "new").code == 0
    assert run("inspect", "new", "--doc", "2").code == 0
    fails("BG215", ["inspect", "new", "--doc", "3"], "0 to 2")


def test_inspecting_a_folder_that_is_no_artifact(cwd: Path, fails: Any) -> None:
    fails("BG307", ["inspect", "."], "no manifest")
    fails("BG210", ["inspect", "tokns"])


@pytest.mark.parametrize("command", ["tokenize", "shard"])
def test_locked_output_is_refused(command: str, cwd: Path, run: Any, fails: Any) -> None:
    with lock(cwd / ".new.work" / "lock", "new"):
        fails("BG601", [command, *TEXT, "--out", "new"], "new", "pid ")
        assert run(command, *TEXT, "--out", "another").code == 0
    assert run(command, *TEXT, "--out", "new").code == 0


def test_lock_of_a_dead_process_is_free(cwd: Path, run: Any) -> None:
    script = "import os, pathlib, bertgpt.utils.files as f\n"
    script += "f.lock(pathlib.Path('.new.work/lock'), 'new').__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert (cwd / ".new.work" / "lock").exists()
    assert run("shard", *TEXT, "--out", "new").code == 0
    assert not (cwd / ".new.work").exists()


def test_repair_of_a_locked_folder_is_refused(cwd: Path, run: Any, fails: Any) -> None:
    assert run("shard", *TEXT, "--out", "new").code == 0
    (cwd / "new" / "train-00000.arrow").unlink()
    with lock(cwd / ".new.work" / "lock", "new"):
        fails("BG601", ["shard", "--repair", "new"])
    assert run("shard", "--repair", "new").code == 0


def test_repair_from_a_changed_source_is_refused(cwd: Path, run: Any, fails: Any) -> None:
    assert run("shard", *TEXT, "--out", "new").code == 0
    (cwd / "new" / "train-00000.arrow").unlink()
    (cwd / "moved").mkdir()
    moved = (cwd / "t.txt").rename(cwd / "moved" / "t.txt")
    fails("BG211", ["shard", "--repair", "new"], "t.txt")
    assert run("shard", "moved/t.txt", "--repair", "new").code == 0
    (cwd / "new" / "train-00000.arrow").unlink()
    moved.write_text("something else")
    fails("BG305", ["shard", "moved/t.txt", "--repair", "new"], "sha256")
