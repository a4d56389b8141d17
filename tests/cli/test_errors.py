"""Errors of the command line: code, exit code and hint, shown fast and without a traceback."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field

import bertgpt
from bertgpt.cli import registry
from bertgpt.config.fields import Options, arguments, choices, flag_name, flag_names
from bertgpt.config.renamed import RENAMED_OPTIONS
from bertgpt.utils.errors import CODES, BertGPTError, did_you_mean, require_package
from tests.conftest import libraries_cpu_seconds, subprocess_cpu_seconds

ROOT = Path(__file__).parents[2]

INVALID = {
    "unknown command": (["inspct", "tinyworld"], "BG201", "did you mean inspect?"),
    "far from any command": (["xyz"], "BG201", "bertgpt --help"),
    "unknown option": (["inspect", "tinyworld", "--dcos", "3"], "BG202", "did you mean --docs?"),
    "unknown option with a value": (["inspect", "tinyworld", "--sed=3"], "BG202", "did you mean --seed?"),
    "unknown option of bertgpt": (["--versoin"], "BG202", "did you mean --version?"),
    "a common option before the command": (["--quiet", "inspect"], "BG202", "--quiet must follow the command"),
    "unknown command after --": (["--", "inspct"], "BG201", "did you mean inspect?"),
    "missing argument": (["inspect"], "BG203", "PATH is missing"),
    "missing option": (["pretrain", "data/shards"], "BG203", "--out is missing"),
    "extra argument": (["inspect", "tinyworld", "tinyworld"], "BG203", "bertgpt inspect --help"),
    "missing value": (["inspect", "tinyworld", "--docs"], "BG203", "bertgpt inspect --help"),
    "wrong type": (
        ["inspect", "tinyworld", "--docs", "three"],
        "BG204",
        "docs should be a valid integer, not 'three'",
    ),
    "out of bounds": (["inspect", "tinyworld", "--docs", "-1"], "BG204", "docs should be greater than or equal to 0"),
    "not one of the choices": (["inspect", "tinyworld", "--task", "clouze"], "BG204", "did you mean cloze?"),
    "nothing to inspect": (["inspect", "tinywrold"], "BG210", "did you mean tinyworld?"),
    "no such folder": (["inspect", "/no/such/folder"], "BG210", "/no/such/folder"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_arguments(case: str, run: Callable[..., Any]) -> None:
    argv, code, message = INVALID[case]
    outcome = run(*argv)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith(f"error[{code}]: ")
    assert message in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("command", "old"), [(name, old) for name, options in RENAMED_OPTIONS.items() for old in options]
)
def test_renamed_options_name_the_new_one(command: str, old: str, run: Callable[..., Any], tmp_path: Path) -> None:
    """From the command line, from a config file and from Python."""
    model = registry.COMMANDS[command]
    hint = f"--{old} is now --{RENAMED_OPTIONS[command][old]}"
    option, _, value = old.partition(" ")
    key = option.replace("-", "_")
    codes = ("BG204", "BG204") if value else ("BG202", "BG208")
    assert (key in model.model_fields) == bool(value)
    required = {name: "x" for name, field in model.model_fields.items() if field.is_required()}
    positional = [required.pop(name) for name in arguments(model) if name in required]
    options = [word for name in required for word in (flag_name(name), "x")]
    outcome = run(command, *positional, *options, f"--{option}", *([value] if value else []))
    assert outcome.err.startswith(f"error[{codes[0]}]: ")
    assert outcome.err.endswith(f"hint:  {hint}\n")
    (tmp_path / "p.yaml").write_text(f"{option}: {value or 'x'}\n")
    outcome = run(command, *positional, *options, "--config", str(tmp_path / "p.yaml"))
    assert outcome.err.startswith(f"error[{codes[1]}]: ")
    assert outcome.err.endswith(f"hint:  {hint}\n")
    with pytest.raises(BertGPTError) as raised:
        registry.as_python_function(command, command)(*positional, **required, **{key: value or "x"})
    assert (raised.value.code, raised.value.hint) == (codes[1], hint)


@pytest.mark.parametrize("command", RENAMED_OPTIONS)
def test_new_names_of_renamed_options_exist(command: str) -> None:
    model = registry.COMMANDS[command]
    known = {name for key, field in model.model_fields.items() for name in flag_names(key, field)}
    for new in RENAMED_OPTIONS[command].values():
        for option, value in re.findall(r"(--[\w-]+)(?: (\w+))?", f"--{new}"):
            assert option in known
            assert not value or value in choices(model.model_fields[option[2:].replace("-", "_")]) or value == "or"


def test_a_folder_without_a_manifest_gets_a_specific_error(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "text.txt").write_text("text")
    for name, message in (("shard", "did you mean"), ("nothing", "no such folder"), ("shards", "has no manifest"),
                        ("text.txt", "this is a file")):  # fmt: skip
        outcome = run("pretrain", str(tmp_path / name), "--preset", "tiny-gpt", "--out", str(tmp_path / "out"))
        assert (outcome.code, "error[BG307]" in outcome.err) == (3, True)
        assert message in outcome.err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", INVALID)
def test_invalid_arguments_as_json(case: str, run: Callable[..., Any]) -> None:
    argv, code, _ = INVALID[case]
    if argv[0] == "--":
        pytest.skip("--json after -- is not an option")
    outcome = run(argv[0], "--json", *argv[1:])
    answer = json.loads(outcome.out)
    assert set(answer) == {"ok", "error"}
    assert answer["ok"] is False
    assert set(answer["error"]) == {"code", "message", "path", "cause", "hint"}
    assert answer["error"]["code"] == code
    assert outcome.code == 2


def test_errors_are_fast(fresh_process: Callable[..., Any]) -> None:
    libraries = min(libraries_cpu_seconds() for _ in range(3))
    for argv in (["inspct"], ["inspect", "tinyworld", "--docs", "x"], ["inspect", "tinyworld", "--config", "/no/file"]):
        seconds = []
        for _ in range(2):
            start = subprocess_cpu_seconds()
            assert fresh_process(*argv).code == 2
            seconds.append(subprocess_cpu_seconds() - start)
        assert min(seconds) < max(0.5, 2.5 * libraries)


def test_arguments_cannot_control_the_terminal(run: Callable[..., Any], hard_strings: list[str]) -> None:
    for text in (*hard_strings, "\x1b]0;title\x07", "\x9b31m"):
        err = run("inspect", text).err
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", err), repr(err)


def test_errors_are_short_and_cannot_forge_another_error(run: Callable[..., Any]) -> None:
    outcome = run("inspect", "x\nerror[BG999]: boo")
    assert outcome.err.splitlines()[0] == "error[BG210]: no such folder: 'x\\nerror[BG999]: boo'"
    assert len(run("inspect", "y" * 5000).err) < 200


def test_json_after_two_dashes_is_not_an_option(run: Callable[..., Any]) -> None:
    assert run("inspect", "--", "--json").out == ""
    assert json.loads(run("inspect", "tinyworld", "--docs", "0", "--json").out)["ok"]


def test_json_escapes_control_characters(run: Callable[..., Any], command: Any) -> None:
    text = "a\u202eb\x9b\u2028 é 你好 \u200d"
    command("bake", BakeOptions, lambda options: {"text": text})
    out = run("bake", "--json").out
    assert json.loads(out)["result"]["text"] == text
    assert "\\u202eb\\u009b\\u2028 é 你好 \u200d" in out


def test_errors_can_be_sent_between_processes() -> None:
    error = BertGPTError("BG204", "no", path="p", cause="c", hint="h")
    again = copy.copy(error)  # uses the protocol of multiprocessing
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
    (tmp_path / "flag").write_text("heat: 10\n")  # not mistaken for the source "flag"
    assert "heat should be" in run("bake", "--config", str(tmp_path / "flag"), "--heat", "x").err
    (tmp_path / "p.yaml").write_text("bake:\n  preset: bread\n  eggs: 1\n  spice: [anise]\n  salted: false\n")
    outcome = run("bake", "--config", f"{tmp_path}/p.yaml:bake", "--spice", "cumin", "--spice", "dill", "--json")
    assert json.loads(outcome.out)["result"] == {
        "preset": "bread", "heat": 220.0, "eggs": 1, "salted": False, "spice": ["cumin", "dill"], "form": "round",
    }  # fmt: skip
    outcome = run("bake", "--config", f"{tmp_path}/p.yaml:bake", "--preset", "biscuit", "--show-config", "--json")
    shown = json.loads(outcome.out)["result"]
    where = f"{tmp_path}/p.yaml:bake"
    assert {name: entry["source"] for name, entry in shown.items()} == {
        "preset": "flag", "heat": "preset biscuit", "eggs": where, "salted": where, "spice": where,
        "form": "preset biscuit",
    }  # fmt: skip
    assert shown["heat"]["value"] == 160.0


def test_show_config_as_a_table(run: Callable[..., Any], command: Any) -> None:
    command("bake", BakeOptions, dump)
    outcome = run("bake", "--no-salted", "--show-config")
    assert re.search(r"salted +False +flag", outcome.out)
    assert re.search(r"heat +1.0 +default", outcome.out)


def test_switch_with_three_values(run: Callable[..., Any], tmp_path: Path) -> None:
    """--cross-document-attention: true, false, or the preset's."""
    required = ["x", "--preset", "tiny-gpt", "--out", "y", "--show-config", "--json"]
    file = tmp_path / "p.yaml"
    for flags, text, value in (
        ([], "{}", None),
        (["--cross-document-attention"], "cross-document-attention: true", True),
        (["--no-cross-document-attention"], "cross_document_attention: false", False),
        ([], "cross-document-attention: null", None),
    ):
        file.write_text(text)
        for argv in (flags, ["--config", str(file)]):
            shown = json.loads(run("pretrain", *required, *argv).out)["result"]["cross_document_attention"]
            assert shown["value"] is value
    file.write_text("cross-document-attention: true")
    shown = run("pretrain", *required, "--config", str(file), "--no-cross-document-attention").out
    assert json.loads(shown)["result"]["cross_document_attention"] == {"value": False, "source": "flag"}


def test_underscores_in_options_are_accepted(run: Callable[..., Any]) -> None:
    assert run("inspect", "tinyworld", "--show_config").code == 0


def test_unknown_preset(run: Callable[..., Any], command: Any) -> None:
    command("bake", BakeOptions, dump)
    outcome = run("bake", "--preset", "bred")
    assert outcome.code == 2
    assert "error[BG209]" in outcome.err
    assert "did you mean bread?" in outcome.err


def test_invalid_value_of_a_preset_names_the_preset(run: Callable[..., Any], command: Any) -> None:
    class Burnt(BakeOptions):
        """Bake too hot."""

        presets: ClassVar = {"coal": {"heat": 900.0}}

    command("bake", Burnt, dump)
    outcome = run("bake", "--preset", "coal")
    assert "error[BG204]: heat should be less than 300, not 900.0" in outcome.err
    assert "preset coal" in outcome.err


def test_internal_error_saves_its_traceback(
    run: Callable[..., Any], command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(options: Options) -> dict[str, Any]:
        raise KeyError("\x1b[31mred")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("BERTGPT_DEBUG", raising=False)
    command("bake", BakeOptions, fail)
    outcome = run("bake")
    assert outcome.code == 1
    assert "error[BG101]: this is a bug in bertgpt: KeyError" in outcome.err
    assert "Traceback" not in outcome.err
    assert "\x1b" not in outcome.err
    assert "Traceback" in (tmp_path / "bertgpt" / "last-error.txt").read_text()
    monkeypatch.setenv("BERTGPT_DEBUG", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    outcome = run("bake", "--json")
    assert "Traceback" in outcome.err
    assert json.loads(outcome.out)["error"]["path"] is None


def test_nan_in_a_result_is_never_printed(run: Callable[..., Any], command: Any) -> None:
    command("bake", BakeOptions, lambda options: {"loss": float("nan")})
    outcome = run("bake", "--json")
    assert outcome.code == 1
    assert json.loads(outcome.out)["ok"] is False


@pytest.mark.parametrize("heat", ["nan", "inf", "-inf"])
def test_options_must_be_finite(heat: str, run: Callable[..., Any], command: Any) -> None:
    command("bake", BakeOptions, dump)
    outcome = run("bake", f"--heat={heat}")
    assert (outcome.code, outcome.err[:12]) == (2, "error[BG204]")


def test_out_of_memory_is_not_a_bug(run: Callable[..., Any], command: Any) -> None:
    def fail(options: Options) -> dict[str, Any]:
        raise MemoryError

    command("bake", BakeOptions, fail)
    assert run("bake").err.startswith("error[BG406]")


def test_missing_package_names_the_command_that_installs_it(run: Callable[..., Any], command: Any) -> None:
    command("bake", BakeOptions, lambda options: {"oven": require_package("no_such_oven.gas", "pipeline").__name__})
    outcome = run("bake")
    assert outcome.code == 4
    assert "error[BG401]" in outcome.err
    assert "pip install 'bertgpt[pipeline]'" in outcome.err
    assert require_package("json", "pipeline") is json


def test_first_digit_of_a_code_is_the_exit_code() -> None:
    assert {BertGPTError(code, "").exit_code for code in CODES} == {1, 2, 3, 4, 5, 6}
    assert did_you_mean("zzz", ["aaa"]) is None


def test_every_code_is_documented_and_tested() -> None:
    documented = dict(re.findall(r"^## (BG\d{3}) (.*)", (ROOT / "docs/errors.md").read_text(encoding="utf-8"), re.M))
    tested = {code for path in (ROOT / "tests").rglob("*.py") for code in re.findall(r"BG\d{3}", path.read_text())}
    assert documented == CODES
    assert set(CODES) <= tested


def test_python_functions_raise_the_same_errors() -> None:
    with pytest.raises(BertGPTError, match="no such option: 'sede'") as raised:
        bertgpt.inspect("tinyworld", sede=3)
    assert (raised.value.code, raised.value.hint) == ("BG208", "did you mean seed?")
    with pytest.raises(BertGPTError, match="PATH is missing"):
        bertgpt.inspect()
    with pytest.raises(BertGPTError, match="path is given both as positional and as keyword argument"):
        bertgpt.inspect("nonsense", path="tinyworld")
    assert bertgpt.inspect is bertgpt.inspect
    with pytest.raises(BertGPTError, match="inspect takes path as positional arguments; all others are keyword-only"):
        bertgpt.inspect("tinyworld", 3)
    with pytest.raises(BertGPTError, match="should be a number"):
        bertgpt.inspect("tinyworld", docs=True)


def test_names_with_line_breaks_are_escaped(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file name cannot add a line to what the command says."""
    monkeypatch.chdir(tmp_path)
    name = "a\nerror[BG101]: forged.txt"
    (tmp_path / name).write_text("One text.\n\nAnother text.")
    done = run("shard", name, "--train-tokenizer", "bpe", "--vocab-size", "300", "--out", "out")
    assert done.code == 0
    (tmp_path / "out" / f"{name}.arrow").touch()
    refused = run("inspect", "out", "--verify")
    for shown in (done.out + done.err, refused.out + refused.err):
        assert not any(line.startswith("error[BG101]") for line in shown.splitlines())


@pytest.mark.parametrize(
    "argv", [["--tokens-per-step", "1000B"], ["--epochs", "1e308"], ["--epochs", "nan"], ["--max-steps", "-1"]]
)
def test_absurd_lengths_of_a_run_are_refused(argv: list[str], run: Callable[..., Any], tmp_path: Path) -> None:
    """At once: a batch of 10^12 tokens was divided into micro-batches one by one."""
    done = run("pretrain", "data", "--preset", "tiny-gpt", "--out", str(tmp_path / "run"), *argv)
    assert (done.code, "error[BG204]" in done.err) == (2, True), done.err
