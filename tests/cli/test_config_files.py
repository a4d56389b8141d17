"""F46: what can be wrong with a config file, and what must not be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from bertgpt.config.fields import Options
from bertgpt.config.yaml_files import read_section
from bertgpt.utils.errors import BertGPTError

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

WRONG = {
    "a typo in a key": ("docs: 1\nsede: 3\n", "", "BG208", ":2:1", "did you mean seed?"),
    "a key that stands twice": ("docs: 1\nseed: 3\ndocs: 2\n", "", "BG206", ":3:1", "'docs' stands twice"),
    "a wrong type": ("docs: 1\nseed: three\n", "", "BG204", ":2:1", "should be a valid integer, not 'three'"),
    "true where a number should be": ("docs: true\n", "", "BG204", ":1:1", "should be a number"),
    "a list where a number should be": ("docs: [1]\n", "", "BG204", ":1:1", "should be a valid integer"),
    "an unknown section": ("inspect:\n  docs: 1\n", ":inspcet", "BG207", "", "did you mean inspect?"),
    "an unknown section further down": ("a:\n  bert: {docs: 1}\n", ":a.bret", "BG207", "", "did you mean bert?"),
    "a section that is a value": ("docs: 1\n", ":docs", "BG206", ":1:7", "docs is not a mapping"),
    "a key that stands twice on the way": ("a: {docs: 1}\na: {docs: 2}\n", ":a", "BG206", ":2:1", "'a' stands twice"),
    "an empty file": ("", "", "BG206", "", "the config file is empty"),
    "only a comment": ("# docs: 1\n", "", "BG206", "", "the config file is empty"),
    "an empty section": ("a:\n", ":a", "BG206", "", "not a mapping"),
    "a list": ("- docs\n", "", "BG206", ":1:1", "not a mapping"),
    "no YAML": ("docs: [1\nseed: 2\n", "", "BG206", ":2:", "this is not YAML"),
    "a tag that would run code": ("docs: !!python/object/apply:os.getpid []\n", "", "BG206", ":1:7", "the tag"),
    "a harmless tag": ('docs: !!int "2"\n', "", "BG206", ":1:7", "the tag"),
    "a key that stands twice in two spellings": ("max-docs: 1\nmax_docs: 2\n", "", "BG206", ":2:1", "stands twice"),
    "a key that stands twice inside a value": ("docs: {a: 1, a: 2}\n", "", "BG206", ":1:14", "'a' stands twice"),
    "a control character": ("docs: 1\x07\n", "", "BG206", "", "this is not YAML"),
    "an escape of no character": ('docs: "\\Uffffffff"\n', "", "BG206", "", "this is not YAML"),
    "nested too deep": ("docs: " + "[" * 5000, "", "BG206", ":1:", "nested too deep"),
    "a number to the base of sixty": ("docs: 1:30\n", "", "BG204", ":1:1", "not '1:30'"),
    "a word that was a truth value": ("docs: yes\n", "", "BG204", ":1:1", "not 'yes'"),
    "a date": ("docs: 2026-13-45\n", "", "BG204", ":1:1", "not '2026-13-45'"),
    "a number of five thousand digits": ("docs: " + "9" * 5000 + "\n", "", "BG204", ":1:1", "docs should be"),
    "an exponent without a number": ("docs: ._e5\n", "", "BG204", ":1:1", "not '._e5'"),
    "a preset that is a list": ("preset: [a]\n", "", "BG208", ":1:1", "no such option: 'preset'"),
    "a key that is no word": ("[1, 2]: 3\n", "", "BG206", ":1:1", "a key is not a plain word"),
    "aliases that explode": (BOMB, "", "BG206", "", "aliases make this file too large"),
    "an alias in a circle": ("docs: &a [*a]\n", "", "BG206", ":1:7", "aliases make this file too large"),
    "two documents": ("docs: 1\n---\ndocs: 2\n", "", "BG206", ":2:1", "this is not YAML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files(case: str, run: Callable[..., Any], tmp_path: Path) -> None:
    text, section, code, place, words = WRONG[case]
    file = tmp_path / "params.yaml"
    file.write_text(text)
    done = run("inspect", "tinyworld", "--config", f"{file}{section}")
    assert done.code == 2
    assert done.err.startswith(f"error[{code}]: ")
    assert f"{file}{place}" in done.err
    assert words in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_files_that_cannot_be_read(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"docs: 1 # caf\xe9\n")
    (tmp_path / "big.yaml").write_text("# " + "x" * 1_000_000)
    for name, cause in (
        ("none.yaml", "No such file"),
        ("latin.yaml", "UTF-8"),
        ("big.yaml", "1 MB"),
        ("x" * 300, "File name too long"),
        ("nul\x00", "null"),
        (".", "Is a directory"),
    ):
        done = run("inspect", "tinyworld", "--config", str(tmp_path / name))
        assert done.code == 2
        assert "error[BG205]" in done.err
        assert cause in done.err


class FloatOptions(Options):
    """Numbers."""

    lr: float = Field(0.0, description="A number.")
    note: str = Field("", description="A text.")
    max_steps: int = Field(0, description="A whole number.")


@pytest.mark.parametrize(
    ("written", "number"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("3e5", 3e5), ("-2.5e+3", -2500.0), (".5e1", 5.0), ("6.0e-4", 6e-4)],
)
def test_numbers_with_an_exponent(written: str, number: float, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"lr: {written}\nnote: '{written}'\n")
    assert read_section(str(tmp_path / "p.yaml")).values == {"lr": number, "note": written}


PLAIN_WORDS = {
    "1e": "1e", "e5": "e5", "12e5x": "12e5x", "1.2.3": "1.2.3",
    "007": "007", "010": "010", "no": "no",
    "'5'": "5", "true": True,
    "null": None, "": None, "1_000": 1000, "-3": -3, "0": 0, "2.": 2.0, "0.5": 0.5, "1e-4": 1e-4, ".inf": float("inf"),
}  # fmt: skip


@pytest.mark.parametrize("word", PLAIN_WORDS)
def test_what_plain_words_mean(word: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"a: {word}\n")
    value = read_section(str(tmp_path / "p.yaml")).values["a"]
    assert (value, type(value)) == (PLAIN_WORDS[word], type(PLAIN_WORDS[word]))


def test_dashes_sections_aliases_and_a_byte_order_mark(run: Callable[..., Any], command: Any, tmp_path: Path) -> None:
    command("count", FloatOptions, lambda options: options.model_dump())
    file = tmp_path / "with:colon.yaml"
    file.write_bytes(b"\xef\xbb\xbfbase: &base {max-steps: 7}\ntrain:\n  bert: *base\n")
    assert '"max_steps": 7' in run("count", "--config", f"{file}:train.bert", "--json").out
    assert read_section(f"{file}:base").location("max_steps") == f"{file}:1:14"
    assert read_section(f"{file}:train").values == {"bert": {"max-steps": 7}}
    file.write_text("path: tinyworld\ndocs: 1\n")
    assert run("inspect", "--config", str(file)).out == run("inspect", "tinyworld", "--docs", "1").out
    flat = tmp_path / "flat:2.yaml"
    flat.write_text("max_steps: 9\n")
    assert '"max_steps": 9' in run("count", "--config", str(flat), "--json").out


def test_the_params_of_a_folder_are_not_read_unasked(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F47, as far as it goes here: no file of the folder and no variable of the environment changes an option."""
    (tmp_path / "params.yaml").write_text("inspect: {docs: 1}\ndocs: 1\n")
    monkeypatch.chdir(tmp_path)
    plain = run("inspect", "tinyworld").out
    monkeypatch.setenv("BERTGPT_DOCS", "1")
    monkeypatch.setenv("BERTGPT_INSPECT_DOCS", "1")
    monkeypatch.setenv("DOCS", "1")
    assert run("inspect", "tinyworld").out == plain
    assert plain.count("document ") >= 3


def test_errors_of_python_callers_name_the_place(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("a: 1\na: 2\n")
    with pytest.raises(BertGPTError) as wrong:
        read_section(str(tmp_path / "p.yaml"))
    assert wrong.value.path == f"{tmp_path}/p.yaml:2:1"
