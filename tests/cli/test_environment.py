"""The command line in unusual environments: locales, terminals, closed pipes, full disks and interrupts."""

import json
import os
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bertgpt
from bertgpt.config.options import InspectOptions
from bertgpt.utils.console import printable

INSPECT = ("inspect", "tinyworld", "--docs", "1")


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C", "LANG": None, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        pytest.param({"PYTHONIOENCODING": "ascii"}, marks=pytest.mark.slow),
        pytest.param({"PYTHONIOENCODING": "latin-1:strict"}, marks=pytest.mark.slow),
        {"TERM": "dumb"},
        {"TERM": None},
        {"COLUMNS": "20"},
        {"COLUMNS": "1"},
        {"COLUMNS": "none"},
        {"HOME": None, "XDG_CACHE_HOME": None},
        {"HOME": "/proc/nowhere", "TMPDIR": "/proc/nowhere"},
        pytest.param({"PYTHONOPTIMIZE": "1"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_unusual_environments(
    env: dict[str, str | None], process: Callable[..., Any], fresh_process: Callable[..., Any]
) -> None:
    """Python reads its own variables when it starts, so those need a new interpreter."""
    if env.get("PYTHONUTF8") == "0" and not str(Path(bertgpt.__file__)).isascii():
        pytest.skip("Python itself does not start: it cannot read the path of the package in this locale")
    start = fresh_process if any(name.startswith("PYTHON") for name in env) else process
    outputs = []
    for argv in ([*INSPECT], [*INSPECT, "--show-config"], ["--help"], ["inspect", "--help"], [*INSPECT, "--json"]):
        outcome = start(*argv, env=env)
        assert outcome.code == 0, outcome.err
        assert outcome.err == ""
        outputs.append(outcome.out)
    assert "document 0 · market notice ·" in outputs[0]
    assert [line.split()[0] for line in outputs[1].splitlines()[2:]] == list(InspectOptions.model_fields)
    assert start("inspect", "naïve", env=env).err.startswith("error[BG210]: no such folder: 'naïve'")


def test_no_colors_in_a_pipe(process: Callable[..., Any]) -> None:
    for argv in ([*INSPECT], ["--help"], [*INSPECT, "--show-config"]):
        assert "\x1b" not in process(*argv, env={"FORCE_COLOR": "1", "TERM": "xterm-256color"}).out


@pytest.mark.parametrize("argv", [["inspect", "tinyworld", "--docs", "1000"], ["--help"], [*INSPECT, "--json"]])
def test_closed_pipe_exits_silently_with_141(argv: list[str], script: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        outcome = subprocess.run([script, *argv], stdout=out, stderr=subprocess.PIPE, text=True)
    assert (outcome.returncode, outcome.stderr) == (141, "")


def test_pipe_closed_after_the_first_line(script: str) -> None:
    argv = [script, "inspect", "tinyworld", "--docs", "1000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("document 0")
        running.stdout.close()
        assert running.stderr is not None
        assert running.stderr.read() == ""
    assert running.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("argv", [[*INSPECT], ["--help"], ["inspect", "tinyworld", "--docs", "1000"]])
def test_full_disk_under_stdout_is_an_error(argv: list[str], script: str) -> None:
    with Path("/dev/full").open("wb") as out:
        outcome = subprocess.run([script, *argv], stdout=out, stderr=subprocess.PIPE, text=True)
    assert outcome.returncode == 4
    assert outcome.stderr.startswith("error[BG402]: the output cannot be written")
    assert "Traceback" not in outcome.stderr
    assert "Exception ignored" not in outcome.stderr


@pytest.mark.parametrize(
    ("redirection", "argv", "code"),
    [
        (">&-", "inspect tinyworld", 141), (">&-", "--help", 141), (">&-", "--version", 141),
        (">&-", "inspct", 2), ("2>&-", "inspct", 2), ("2>/dev/full", "inspct", 2), ("2>/dev/full", "--version", 0),
        (">/dev/full", "inspct --json", 4), ("2> >(true)", "inspct", 2), ("<&-", "--version", 0),
        (">&- 2>&-", "inspct", 2),
    ],
)  # fmt: skip
def test_closed_and_full_streams(redirection: str, argv: str, code: int, script: str) -> None:
    outcome = subprocess.run(["bash", "-c", f'"$0" {argv} {redirection}', script], capture_output=True, text=True)
    assert "Traceback" not in outcome.stderr
    assert "Exception ignored" not in outcome.stderr
    assert outcome.returncode == code, outcome.stderr


def test_interrupt_exits_with_130_without_a_traceback(tmp_path: Path, script: str) -> None:
    """The command waits for its config in a named pipe, so it is running when the signal comes."""
    fifo = tmp_path / "config.yaml"
    os.mkfifo(fifo)
    argv = [script, "inspect", "tinyworld", "--config", str(fifo)]
    running = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with running, fifo.open("w"):  # blocks until the command opens it for reading
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert (out, err[:11]) == ("", "interrupted")


def test_interrupt_during_imports_exits_with_130() -> None:
    code = """
import os, signal, sys
from bertgpt.__main__ import main

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
main()
"""
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (outcome.returncode, outcome.stderr) == (130, "")


def test_tables_are_not_folded_in_a_pipe(process: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / ("long" * 30)
    file.write_text("docs: 1\n")
    shown = process("inspect", "tinyworld", "--config", str(file), "--show-config").out
    assert ["docs", "1", str(file)] in [line.split() for line in shown.splitlines()]


@pytest.mark.parametrize(("variable", "colored"), [(None, True), ("1", False), ("", True)])
def test_colors_on_a_terminal_without_no_color(variable: str | None, colored: bool, script: str) -> None:
    env = {k: v for k, v in (os.environ | {"TERM": "xterm", "NO_COLOR": variable}).items() if v is not None}
    reader, terminal = os.openpty()
    with subprocess.Popen([script, *INSPECT], stdout=terminal, env=env) as running:
        running.wait(timeout=30)
        os.close(terminal)
        shown = os.read(reader, 10_000)
    os.close(reader)
    assert (b"\x1b[1;36mdocument 0" in shown) is colored


def test_quiet_still_prints_results_and_errors(process: Callable[..., Any]) -> None:
    assert process(*INSPECT, "--quiet").out == process(*INSPECT).out
    assert process("inspect", "nothing", "--quiet").err.startswith("error[BG210]")


def test_omp_wait_policy_is_passive_by_default(process: Callable[..., Any]) -> None:
    code = "import os, bertgpt; print(os.environ['OMP_WAIT_POLICY'])"
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        env = {k: v for k, v in (os.environ | {"OMP_WAIT_POLICY": given}).items() if v is not None}
        outcome = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert outcome.stdout.strip() == expected


def test_version(process: Callable[..., Any]) -> None:
    assert process("--version").out == f"bertgpt {bertgpt.__version__}\n"


def test_shell_completion(process: Callable[..., Any]) -> None:
    for typed, expected in (
        ("bertgpt ins", "inspect"),
        ("bertgpt inspect tinyworld --ta", "--task"),
        ("bertgpt inspect x --task cl", "cloze"),
    ):
        words = typed.split()
        env = {"_BERTGPT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
        assert expected in process(env=env).out.split()
    assert process(env={"_BERTGPT_COMPLETE": "complete_foo"}).code == 1


def test_console_script_runs_the_module(process: Callable[..., Any]) -> None:
    script = Path(sys.executable).with_name("bertgpt")
    if not script.exists():
        pytest.skip("bertgpt is not installed beside this Python")
    outcome = subprocess.run([script, *INSPECT], capture_output=True, encoding="utf-8")
    assert outcome.stdout == process(*INSPECT).out


def test_python_functions_have_signatures() -> None:
    import inspect as python_inspect

    assert "inspect" in dir(bertgpt)
    assert "docs: int = 3" in str(python_inspect.signature(bertgpt.inspect))
    assert bertgpt.inspect.__doc__
    with pytest.raises(AttributeError):
        _ = bertgpt.no_such_command


def test_printable_escapes_control_characters_only(hard_strings: list[str]) -> None:
    assert printable("[bold] é 你好 👍🏽 \n\t") == "[bold] é 你好 👍🏽 \n\t"
    assert printable("a\nb\t", one_line=True) == "a\\nb\\t"
    assert printable("می\u200cخواهم 👩\u200d👧") == "می\u200cخواهم 👩\u200d👧"
    assert printable("a\x1b[31mb\rc\x00d\u202ee\x9b") == "a\\x1b[31mb\\rc\\x00d\\u202ee\\x9b"
    for text in hard_strings:
        categories = {unicodedata.category(c) for c in printable(text) if c not in "\n\t\u200c\u200d"}
        assert not categories & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def test_printable_on_naughty_strings(data: Path) -> None:
    for text in json.loads((data / "edge_text" / "blns.json").read_text(encoding="utf-8")):
        assert not set(printable(text)) & set("\x1b\x07\x08\r\u202e\u2066\ufeff\u2028")
