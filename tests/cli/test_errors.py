"""Whatever a user can get wrong on the command line: the designed error, its exit code, at once, and no traceback."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field

import bertgpt
from bertgpt.config.fields import Options
from bertgpt.utils.errors import CODES, BertGPTError, did_you_mean, require_package
from tests.conftest import libraries_cpu_seconds, subprocess_cpu_seconds

ROOT = Path(__file__).parents[2]

WRONG = {
    "unknown command": (["inspct", "tinyworld"], "BG201", "did you mean inspect?"),
    "far from any command": (["xyz"], "BG201", "bertgpt --help"),
    "unknown option": (["inspect", "tinyworld", "--dcos", "3"], "BG202", "did you mean --docs?"),
    "unknown option with a value": (["inspect", "tinyworld", "--sed=3"], "BG202", "did you mean --seed?"),
    "unknown option of bertgpt": (["--versoin"], "BG202", "did you mean --version?"),
    "a common option before the command": (["--quiet", "inspect"], "BG202", "--quiet must follow the command"),
    "unknown command behind --": (["--", "inspct"], "BG201", "did you mean inspect?"),
    "missing argument": (["inspect"], "BG203", "PATH is missing"),
    "missing option": (["pretrain", "data/shards"], "BG203", "--out is missing"),
    "one argument too many": (["inspect", "tinyworld", "tinyworld"], "BG203", "bertgpt inspect --help"),
    "missing value": (["inspect", "tinyworld", "--docs"], "BG203", "bertgpt inspect --help"),
    "wrong type": (
        ["inspect", "tinyworld", "--docs", "three"],
        "BG204",
        "docs should be a valid integer, not 'three'",
    ),
    "out of bounds": (["inspect", "tinyworld", "--docs", "-1"], "BG204", "docs should be greater than or equal to 0"),
    "not one of the words": (["inspect", "tinyworld", "--task", "clouze"], "BG204", "did you mean cloze?"),
    "nothing there": (["inspect", "tinywrold"], "BG210", "did you mean tinyworld?"),
    "nothing there at all": (["inspect", "/no/such/folder"], "BG210", "/no/such/folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case: str, run: Callable[..., Any]) -> None:
    argv, code, words = WRONG[case]
    done = run(*argv)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith(f"error[{code}]: ")
    assert words in done.err
    assert "Traceback" not in done.err


def test_what_is_no_folder_of_ours_is_called_what_it_is(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "text.txt").write_text("text")
    for name, words in (("shard", "did you mean"), ("nothing", "no such folder"), ("shards", "has no manifest"),
                        ("text.txt", "a file, not a folder")):  # fmt: skip
        done = run("pretrain", str(tmp_path / name), "--preset", "tiny-gpt", "--out", str(tmp_path / "out"))
        assert (done.code, "error[BG307]" in done.err) == (3, True)
        assert words in done.err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_as_json(case: str, run: Callable[..., Any]) -> None:
    argv, code, _ = WRONG[case]
    if argv[0] == "--":
        pytest.skip("what follows -- is no option")
    done = run(argv[0], "--json", *argv[1:])
    answer = json.loads(done.out)
    assert set(answer) == {"ok", "error"}
    assert answer["ok"] is False
    assert set(answer["error"]) == {"code", "message", "path", "cause", "hint"}
    assert answer["error"]["code"] == code
    assert done.code == 2


def test_errors_come_at_once(process: Callable[..., Any]) -> None:
    for argv in (["inspct"], ["inspect", "tinyworld", "--docs", "x"], ["inspect", "tinyworld", "--config", "/no/file"]):
        seconds, libraries = [], []
        for _ in range(3):
            libraries.append(libraries_cpu_seconds())
            start = subprocess_cpu_seconds()
            assert process(*argv).code == 2
            seconds.append(subprocess_cpu_seconds() - start)
        assert min(seconds) < max(0.5, 2.5 * min(libraries))


def test_what_is_typed_cannot_drive_the_terminal(run: Callable[..., Any], hard_strings: list[str]) -> None:
    for text in (*hard_strings, "\x1b]0;title\x07", "\x9b31m"):
        err = run("inspect", text).err
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", err), repr(err)


def test_an_error_is_no_longer_than_it_must_be_and_cannot_forge_another(run: Callable[..., Any]) -> None:
    done = run("inspect", "x\nerror[BG999]: boo")
    assert done.err.splitlines()[0] == "error[BG210]: there is nothing called 'x\\nerror[BG999]: boo' to look into"
    assert len(run("inspect", "y" * 5000).err) < 200


def test_json_is_asked_for_before_the_dashes_that_end_options(run: Callable[..., Any]) -> None:
    assert run("inspect", "--", "--json").out == ""
    assert json.loads(run("inspect", "tinyworld", "--docs", "0", "--json").out)["ok"]


def test_json_escapes_what_drives_terminals(run: Callable[..., Any], command: Any) -> None:
    text = "a\u202eb\x9b\u2028 é 你好 \u200d"
    command("bake", BakeOptions, lambda options: {"text": text})
    out = run("bake", "--json").out
    assert json.loads(out)["result"]["text"] == text
    assert "\\u202eb\\u009b\\u2028 é 你好 \u200d" in out


def test_errors_travel_between_processes() -> None:
    error = BertGPTError("BG204", "no", path="p", cause="c", hint="h")
    again = copy.copy(error)  # by the same protocol as multiprocessing
    assert vars(again) == vars(error)
    assert str(again) == "no (p); cause: c; hint: h"


class BakeOptions(Options):
    """Bake something."""

    preset: str | None = Field(None, description="A recipe.")
    heat: float = Field(1.0, gt=0, lt=300, description="How hot.")
    eggs: int = Field(2, ge=0, description="How many eggs.")
    salted: bool = Field(True, description="Whether with salt.")
    spice: list[str] = Field([], description="What else.")
    form: Literal["round", "square"] = Field("round", description="Which form.")

    presets: ClassVar = {"bread": {"heat": 220.0, "eggs": 0}, "biscuit": {"heat": 160.0, "form": "square"}}


def dump(options: Options) -> dict[str, Any]:
    return options.model_dump()


def test_flag_over_config_over_preset_over_default(run: Callable[..., Any], command: Any, tmp_path: Path) -> None:
    command("bake", BakeOptions, dump)
    (tmp_path / "flag").write_text("heat: 10\n")  # a file may have any name
    assert "heat should be" in run("bake", "--config", str(tmp_path / "flag"), "--heat", "x").err
    (tmp_path / "p.yaml").write_text("bake:\n  preset: bread\n  eggs: 1\n  spice: [anise]\n  salted: false\n")
    done = run("bake", "--config", f"{tmp_path}/p.yaml:bake", "--spice", "cumin", "--spice", "dill", "--json")
    assert json.loads(done.out)["result"] == {
        "preset": "bread", "heat": 220.0, "eggs": 1, "salted": False, "spice": ["cumin", "dill"], "form": "round",
    }  # fmt: skip
    done = run("bake", "--config", f"{tmp_path}/p.yaml:bake", "--preset", "biscuit", "--show-config", "--json")
    shown = json.loads(done.out)["result"]
    where = f"{tmp_path}/p.yaml:bake"
    assert {name: entry["source"] for name, entry in shown.items()} == {
        "preset": "flag", "heat": "preset biscuit", "eggs": where, "salted": where, "spice": where,
        "form": "preset biscuit",
    }  # fmt: skip
    assert shown["heat"]["value"] == 160.0


def test_show_config_as_a_table(run: Callable[..., Any], command: Any) -> None:
    command("bake", BakeOptions, dump)
    done = run("bake", "--no-salted", "--show-config")
    assert re.search(r"salted +False +flag", done.out)
    assert re.search(r"heat +1.0 +default", done.out)


def test_underscores_are_dashes(run: Callable[..., Any]) -> None:
    assert run("inspect", "tinyworld", "--show_config").code == 0


def test_an_unknown_preset(run: Callable[..., Any], command: Any) -> None:
    command("bake", BakeOptions, dump)
    done = run("bake", "--preset", "bred")
    assert done.code == 2
    assert "error[BG209]" in done.err
    assert "did you mean bread?" in done.err


def test_a_wrong_value_of_a_preset_says_where_it_comes_from(run: Callable[..., Any], command: Any) -> None:
    class Burnt(BakeOptions):
        """Bake too hot."""

        presets: ClassVar = {"coal": {"heat": 900.0}}

    command("bake", Burnt, dump)
    done = run("bake", "--preset", "coal")
    assert "error[BG204]: heat should be less than 300, not 900.0" in done.err
    assert "preset coal" in done.err


def test_a_bug_is_reported_and_its_traceback_kept(
    run: Callable[..., Any], command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(options: Options) -> dict[str, Any]:
        raise KeyError("\x1b[31mred")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("BERTGPT_DEBUG", raising=False)
    command("bake", BakeOptions, fail)
    done = run("bake")
    assert done.code == 1
    assert "error[BG101]: this is a bug in bertgpt: KeyError" in done.err
    assert "Traceback" not in done.err
    assert "\x1b" not in done.err
    assert "Traceback" in (tmp_path / "bertgpt" / "last-error.txt").read_text()
    monkeypatch.setenv("BERTGPT_DEBUG", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    done = run("bake", "--json")
    assert "Traceback" in done.err
    assert json.loads(done.out)["error"]["path"] is None


def test_a_result_that_is_no_number_is_never_printed(run: Callable[..., Any], command: Any) -> None:
    command("bake", BakeOptions, lambda options: {"loss": float("nan")})
    done = run("bake", "--json")
    assert done.code == 1
    assert json.loads(done.out)["ok"] is False


@pytest.mark.parametrize("heat", ["nan", "inf", "-inf"])
def test_numbers_are_finite(heat: str, run: Callable[..., Any], command: Any) -> None:
    command("bake", BakeOptions, dump)
    done = run("bake", f"--heat={heat}")
    assert (done.code, done.err[:12]) == (2, "error[BG204]")


def test_too_little_memory_is_no_bug(run: Callable[..., Any], command: Any) -> None:
    def fail(options: Options) -> dict[str, Any]:
        raise MemoryError

    command("bake", BakeOptions, fail)
    assert run("bake").err.startswith("error[BG406]")


def test_a_missing_extra_names_the_command_that_installs_it(run: Callable[..., Any], command: Any) -> None:
    """F51."""
    command("bake", BakeOptions, lambda options: {"oven": require_package("no_such_oven.gas", "pipeline").__name__})
    done = run("bake")
    assert done.code == 4
    assert "error[BG401]" in done.err
    assert "pip install 'bertgpt[pipeline]'" in done.err
    assert require_package("json", "pipeline") is json


def test_a_code_decides_the_exit_code() -> None:
    assert {BertGPTError(code, "").exit_code for code in CODES} == {1, 2, 3, 4, 5, 6}
    assert did_you_mean("zzz", ["aaa"]) is None


def test_every_code_is_explained_and_tested() -> None:
    explained = set(re.findall(r"^## (BG\d{3})", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.M))
    tested = {code for path in (ROOT / "tests").rglob("*.py") for code in re.findall(r"BG\d{3}", path.read_text())}
    assert explained == set(CODES) <= tested


def test_python_raises_the_same_errors() -> None:
    with pytest.raises(BertGPTError, match="no such option: 'sede'") as wrong:
        bertgpt.inspect("tinyworld", sede=3)
    assert (wrong.value.code, wrong.value.hint) == ("BG208", "did you mean seed?")
    with pytest.raises(BertGPTError, match="PATH is missing"):
        bertgpt.inspect()
    with pytest.raises(BertGPTError, match="path is given twice"):
        bertgpt.inspect("nonsense", path="tinyworld")
    assert bertgpt.inspect is bertgpt.inspect
    with pytest.raises(BertGPTError, match="inspect takes path by place"):
        bertgpt.inspect("tinyworld", 3)
    with pytest.raises(BertGPTError, match="should be a number"):
        bertgpt.inspect("tinyworld", docs=True)
