"""F49 and F34: odd surroundings, closed pipes, full disks and interrupts."""

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
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
        {"TERM": "dumb"},
        {"TERM": None},
        {"COLUMNS": "20"},
        {"COLUMNS": "1"},
        {"COLUMNS": "none"},
        {"HOME": None, "XDG_CACHE_HOME": None},
        {"HOME": "/proc/nowhere", "TMPDIR": "/proc/nowhere"},
        {"PYTHONOPTIMIZE": "1"},
    ],
    ids=str,
)
def test_odd_surroundings(env: dict[str, str | None], process: Callable[..., Any]) -> None:
    printed = []
    for argv in ([*INSPECT], [*INSPECT, "--show-config"], ["--help"], ["inspect", "--help"], [*INSPECT, "--json"]):
        done = process(*argv, env=env)
        assert done.code == 0, done.err
        assert done.err == ""
        printed.append(done.out)
    assert "document 0 · market notice ·" in printed[0]
    assert [line.split()[0] for line in printed[1].splitlines()[2:]] == list(InspectOptions.model_fields)
    assert process("inspect", "naïve", env=env).err.startswith("error[BG210]: there is nothing called 'naïve'")


def test_no_colour_and_no_escape_in_a_pipe(process: Callable[..., Any]) -> None:
    for argv in ([*INSPECT], ["--help"], [*INSPECT, "--show-config"]):
        assert "\x1b" not in process(*argv, env={"FORCE_COLOR": "1", "TERM": "xterm-256color"}).out


@pytest.mark.parametrize("argv", [["inspect", "tinyworld", "--docs", "1000"], ["--help"], [*INSPECT, "--json"]])
def test_a_closed_pipe_is_141_and_silent(argv: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run([sys.executable, "-m", "bertgpt", *argv], stdout=out, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_pipe_that_closes_after_the_first_line() -> None:
    argv = [sys.executable, "-m", "bertgpt", "inspect", "tinyworld", "--docs", "1000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("document 0")
        running.stdout.close()
        assert running.stderr is not None
        assert running.stderr.read() == ""
    assert running.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("argv", [[*INSPECT], ["--help"], ["inspect", "tinyworld", "--docs", "1000"]])
def test_a_full_disk_under_stdout_is_an_error(argv: list[str]) -> None:
    with Path("/dev/full").open("wb") as out:
        done = subprocess.run([sys.executable, "-m", "bertgpt", *argv], stdout=out, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 4
    assert done.stderr.startswith("error[BG402]: the output cannot be written")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    ("redirection", "argv", "code"),
    [
        (">&-", "inspect tinyworld", 141), (">&-", "--help", 141), (">&-", "--version", 141),
        (">&-", "inspct", 2), ("2>&-", "inspct", 2), ("2>/dev/full", "inspct", 2), ("2>/dev/full", "--version", 0),
        (">/dev/full", "inspct --json", 4), ("2> >(true)", "inspct", 2), ("<&-", "--version", 0),
        (">&- 2>&-", "inspct", 2),
    ],
)  # fmt: skip
def test_closed_and_full_streams(redirection: str, argv: str, code: int) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"$0" -m bertgpt {argv} {redirection}', sys.executable], capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == code, done.stderr


def test_an_interrupt_is_130_without_a_traceback(tmp_path: Path) -> None:
    """The command waits for its config in a named pipe, so the signal comes when it is surely at work."""
    fifo = tmp_path / "config.yaml"
    os.mkfifo(fifo)
    argv = [sys.executable, "-m", "bertgpt", "inspect", "tinyworld", "--config", str(fifo)]
    running = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with running, fifo.open("w"):  # opens when the command opens it for reading
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert (out, err[:11]) == ("", "interrupted")


def test_an_interrupt_while_modules_are_imported_is_130_too() -> None:
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


def test_a_table_is_not_folded_in_a_pipe(process: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / ("long" * 30)
    file.write_text("docs: 1\n")
    shown = process("inspect", "tinyworld", "--config", str(file), "--show-config").out
    assert ["docs", "1", str(file)] in [line.split() for line in shown.splitlines()]


@pytest.mark.parametrize(("variable", "coloured"), [(None, True), ("1", False), ("", True)])
def test_colour_on_a_terminal_unless_it_is_unwanted(variable: str | None, coloured: bool) -> None:
    env = {k: v for k, v in (os.environ | {"TERM": "xterm", "NO_COLOR": variable}).items() if v is not None}
    ours, theirs = os.openpty()
    with subprocess.Popen([sys.executable, "-m", "bertgpt", *INSPECT], stdout=theirs, env=env) as running:
        running.wait(timeout=30)
        os.close(theirs)
        shown = os.read(ours, 10_000)
    os.close(ours)
    assert (b"\x1b[1;36mdocument 0" in shown) is coloured


def test_quiet_leaves_results_and_errors(process: Callable[..., Any]) -> None:
    assert process(*INSPECT, "--quiet").out == process(*INSPECT).out
    assert process("inspect", "nothing", "--quiet").err.startswith("error[BG210]")


def test_waiting_threads_do_not_spin(process: Callable[..., Any]) -> None:
    code = "import os, bertgpt; print(os.environ['OMP_WAIT_POLICY'])"
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        env = {k: v for k, v in (os.environ | {"OMP_WAIT_POLICY": given}).items() if v is not None}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.stdout.strip() == expected


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


def test_the_console_script_is_the_module(process: Callable[..., Any]) -> None:
    script = Path(sys.executable).with_name("bertgpt")
    if not script.exists():
        pytest.skip("bertgpt is not installed beside this Python")
    done = subprocess.run([script, *INSPECT], capture_output=True, encoding="utf-8")
    assert done.stdout == process(*INSPECT).out


def test_functions_show_their_options() -> None:
    import inspect as python_inspect

    assert "inspect" in dir(bertgpt)
    assert "docs: int = 3" in str(python_inspect.signature(bertgpt.inspect))
    assert bertgpt.inspect.__doc__
    with pytest.raises(AttributeError):
        _ = bertgpt.no_such_command


def test_printable_leaves_text_and_escapes_what_drives_terminals(hard_strings: list[str]) -> None:
    assert printable("[bold] é 你好 👍🏽 \n\t") == "[bold] é 你好 👍🏽 \n\t"
    assert printable("a\nb\t", one_line=True) == "a\\nb\\t"
    assert printable("می\u200cخواهم 👩\u200d👧") == "می\u200cخواهم 👩\u200d👧"
    assert printable("a\x1b[31mb\rc\x00d\u202ee\x9b") == "a\\x1b[31mb\\rc\\x00d\\u202ee\\x9b"
    for text in hard_strings:
        left = {unicodedata.category(c) for c in printable(text) if c not in "\n\t\u200c\u200d"}
        assert not left & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def test_printable_on_naughty_strings(data: Path) -> None:
    for text in json.loads((data / "edge_text" / "blns.json").read_text(encoding="utf-8")):
        assert not set(printable(text)) & set("\x1b\x07\x08\r\u202e\u2066\ufeff\u2028")
