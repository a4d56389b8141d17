"""Config files: what is rejected, with file, line and column, and what is accepted."""

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

INVALID = {
    "typo in a key": ("docs: 1\nsede: 3\n", "", "BG208", ":2:1", "did you mean seed?"),
    "duplicate key": ("docs: 1\nseed: 3\ndocs: 2\n", "", "BG206", ":3:1", "duplicate key: 'docs'"),
    "wrong type": ("docs: 1\nseed: three\n", "", "BG204", ":2:1", "should be a valid integer, not 'three'"),
    "bool for a number": ("docs: true\n", "", "BG204", ":1:1", "should be a number"),
    "list for a number": ("docs: [1]\n", "", "BG204", ":1:1", "should be a valid integer"),
    "unknown section": ("inspect:\n  docs: 1\n", ":inspcet", "BG207", "", "did you mean inspect?"),
    "unknown nested section": ("a:\n  bert: {docs: 1}\n", ":a.bret", "BG207", "", "did you mean bert?"),
    "section that is a value": ("docs: 1\n", ":docs", "BG206", ":1:7", "docs is not a mapping"),
    "duplicate section": ("a: {docs: 1}\na: {docs: 2}\n", ":a", "BG206", ":2:1", "duplicate key: 'a'"),
    "empty file": ("", "", "BG206", "", "config file is empty"),
    "only a comment": ("# docs: 1\n", "", "BG206", "", "config file is empty"),
    "empty section": ("a:\n", ":a", "BG206", "", "not a mapping"),
    "a list": ("- docs\n", "", "BG206", ":1:1", "not a mapping"),
    "invalid YAML": ("docs: [1\nseed: 2\n", "", "BG206", ":2:", "not valid YAML"),
    "tag that would run code": ("docs: !!python/object/apply:os.getpid []\n", "", "BG206", ":1:7", "tags are not"),
    "harmless tag": ('docs: !!int "2"\n', "", "BG206", ":1:7", "tags are not allowed"),
    "duplicate key with - and _": ("max-docs: 1\nmax_docs: 2\n", "", "BG206", ":2:1", "duplicate key"),
    "duplicate key inside a value": ("docs: {a: 1, a: 2}\n", "", "BG206", ":1:14", "duplicate key: 'a'"),
    "control character": ("docs: 1\x07\n", "", "BG206", "", "not valid YAML"),
    "escape of no character": ('docs: "\\Uffffffff"\n', "", "BG206", "", "not valid YAML"),
    "deep nesting": ("docs: " + "[" * 5000, "", "BG206", ":1:", "nested too deeply"),
    "sexagesimal number": ("docs: 1:30\n", "", "BG204", ":1:1", "not '1:30'"),
    "bool of YAML 1.1": ("docs: yes\n", "", "BG204", ":1:1", "not 'yes'"),
    "a date": ("docs: 2026-13-45\n", "", "BG204", ":1:1", "not '2026-13-45'"),
    "number of 5000 digits": ("docs: " + "9" * 5000 + "\n", "", "BG204", ":1:1", "docs should be"),
    "exponent without a number": ("docs: ._e5\n", "", "BG204", ":1:1", "not '._e5'"),
    "preset that is a list": ("preset: [a]\n", "", "BG208", ":1:1", "no such option: 'preset'"),
    "key that is a list": ("[1, 2]: 3\n", "", "BG206", ":1:1", "key is not a string"),
    "aliases that explode": (BOMB, "", "BG206", "", "aliases make the config file too large"),
    "alias cycle": ("docs: &a [*a]\n", "", "BG206", ":1:7", "aliases make the config file too large"),
    "two documents": ("docs: 1\n---\ndocs: 2\n", "", "BG206", ":2:1", "not valid YAML"),
    "renamed option": ("docs: 1\nagainst: cloze\n", "", "BG208", ":2:1", "is now --contamination"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_files(case: str, run: Callable[..., Any], tmp_path: Path) -> None:
    text, section, code, location, message = INVALID[case]
    file = tmp_path / "params.yaml"
    file.write_text(text)
    outcome = run("inspect", "tinyworld", "--config", f"{file}{section}")
    assert outcome.code == 2
    assert outcome.err.startswith(f"error[{code}]: ")
    assert f"{file}{location}" in outcome.err
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


def test_unreadable_files(run: Callable[..., Any], tmp_path: Path) -> None:
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
        outcome = run("inspect", "tinyworld", "--config", str(tmp_path / name))
        assert outcome.code == 2
        assert "error[BG205]" in outcome.err
        assert cause in outcome.err


class FloatOptions(Options):
    """Numbers."""

    lr: float = Field(0.0, description="A number.")
    note: str = Field("", description="A string.")
    max_steps: int = Field(0, description="An integer.")


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("3e5", 3e5), ("-2.5e+3", -2500.0), (".5e1", 5.0), ("6.0e-4", 6e-4)],
)
def test_numbers_with_an_exponent(text: str, number: float, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"lr: {text}\nnote: '{text}'\n")
    assert read_section(str(tmp_path / "p.yaml")).values == {"lr": number, "note": text}


SCALARS = {
    "1e": "1e", "e5": "e5", "12e5x": "12e5x", "1.2.3": "1.2.3",
    "007": "007", "010": "010", "no": "no",
    "'5'": "5", "true": True,
    "null": None, "": None, "1_000": 1000, "-3": -3, "0": 0, "2.": 2.0, "0.5": 0.5, "1e-4": 1e-4, ".inf": float("inf"),
}  # fmt: skip


@pytest.mark.parametrize("text", SCALARS)
def test_scalars(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"a: {text}\n")
    value = read_section(str(tmp_path / "p.yaml")).values["a"]
    assert (value, type(value)) == (SCALARS[text], type(SCALARS[text]))


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


def test_no_config_is_read_without_the_option(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of the working directory and no environment variable changes an option."""
    (tmp_path / "params.yaml").write_text("inspect: {docs: 1}\ndocs: 1\n")
    monkeypatch.chdir(tmp_path)
    expected = run("inspect", "tinyworld").out
    monkeypatch.setenv("BERTGPT_DOCS", "1")
    monkeypatch.setenv("BERTGPT_INSPECT_DOCS", "1")
    monkeypatch.setenv("DOCS", "1")
    assert run("inspect", "tinyworld").out == expected
    assert expected.count("document ") >= 3


def test_errors_in_python_have_the_location(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("a: 1\na: 2\n")
    with pytest.raises(BertGPTError) as raised:
        read_section(str(tmp_path / "p.yaml"))
    assert raised.value.path == f"{tmp_path}/p.yaml:2:1"
