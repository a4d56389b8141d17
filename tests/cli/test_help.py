"""Help pages: frozen, fast to show, without heavy imports; their examples run."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import bertgpt
from bertgpt.cli import registry
from bertgpt.config.fields import (
    COMMON_OPTIONS,
    PANELS,
    base_type,
    choices,
    default_note,
    flag_name,
    flag_names,
    metavar,
    panel_of,
)
from bertgpt.data.tokenizers.train import train_tokenizer
from bertgpt.tinyworld.tasks import TASKS
from bertgpt.utils.console import Console
from tests.conftest import libraries_cpu_seconds, subprocess_cpu_seconds

SNAPSHOTS = Path(__file__).parent / "snapshots"
SNAPSHOT_TYPER = "0.29."  # another version of Typer may draw the same page in another way
PAGES = ["bertgpt", *registry.COMMANDS]


def help_page(name: str, run: Callable[..., Any]) -> str:
    """The help page of a command, or of `bertgpt`."""
    outcome = run("--help") if name == "bertgpt" else run(name, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    return outcome.out


def words_of(page: str) -> str:
    """A page without frames and line breaks."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", page).split())


@pytest.mark.skipif(not typer.__version__.startswith(SNAPSHOT_TYPER), reason="snapshots are of another Typer")
@pytest.mark.parametrize("page", PAGES)
def test_pages_match_their_snapshots(page: str, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """To accept a change, delete the snapshot and run this once."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = help_page(page, run)
    snapshot = SNAPSHOTS / f"help-{page}.txt"
    if not snapshot.exists():
        snapshot.write_text(shown, encoding="utf-8")
        pytest.fail(f"wrote {snapshot.name}: check it and commit it")
    assert shown == snapshot.read_text(encoding="utf-8")
    assert "…" not in shown  # nothing is cut off


def test_every_snapshot_has_a_page() -> None:
    assert {path.name for path in SNAPSHOTS.iterdir()} == {f"help-{page}.txt" for page in PAGES}


def test_commands_are_listed_in_pipeline_order(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    listed = help_page("bertgpt", run).partition("─ Commands ─")[2].splitlines()[1:]
    assert [line.split()[1] for line in listed if line.startswith("│")] == list(registry.COMMANDS)
    order = [
        "tokenize",
        "shard",
        "mask",
        "pretrain",
        "finetune",
        "eval",
        "generate",
        "inspect",
        "export",
        "import",
        "report",
        "new",
    ]
    assert list(registry.COMMANDS) == [name for name in order if name in registry.COMMANDS]


@pytest.mark.parametrize("name", registry.COMMANDS)
def test_pages_show_every_option_with_its_default(
    name: str, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    page = help_page(name, run)
    for key, field in registry.COMMANDS[name].model_fields.items():
        names = [metavar(field)] if panel_of(field) == "Arguments" else flag_names(key, field)
        assert all(name in page for name in names[: 1 if field.default is False else 2])
        note = default_note(registry.COMMANDS[name], key)
        assert not note or f"{field.description} [{note}]" in words_of(page)
        assert words_of(str(field.description)) in words_of(page)
    assert all(flag_name(key) in page for key in COMMON_OPTIONS)


@pytest.mark.parametrize("name", registry.COMMANDS)
def test_panels_have_the_same_order_on_every_page(name: str, run: Callable[..., Any]) -> None:
    panels = re.findall("╭─ ([A-Z][a-z ]+) ─", help_page(name, run))
    assert panels == [panel for panel in PANELS if panel in panels]
    assert panels[-1] == "Run"


def test_no_command_and_short_help_show_the_same_page(run: Callable[..., Any]) -> None:
    assert run().out == run("-h").out == run("--help").out


@pytest.mark.parametrize("columns", [1, 20, 33, 47, 48, 80, 200])
def test_pages_fit_the_terminal(columns: int, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for page in PAGES:
        assert max(map(len, help_page(page, run).splitlines())) <= columns


@pytest.mark.slow
@pytest.mark.timeout(600)  # all commands, one after the other
def test_examples_run_and_python_returns_the_json_result(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every example in the order of the pipeline, since later ones read the output of earlier ones."""
    monkeypatch.chdir(tmp_path)
    save_hf_model(Path("work/hf"))
    for name, model in registry.COMMANDS.items():
        for example in model.examples:
            program, command, *argv = shlex.split(example)
            assert (program, command) == ("bertgpt", name)
            outcome = run(name, *argv, *([] if "--json" in argv else ["--json"]))
            assert outcome.code == 0, outcome.err
            envelope = json.loads(outcome.out)
            result = call_python_function(name, [word for word in argv if word != "--json"])
            registry.stage_module(name).show(result, Console())  # what is printed without --json
            streamed = name == "generate" and "samples" in result and "masks" not in result["samples"][0]
            assert capfd.readouterr().out or streamed  # streamed text was printed while it was generated
            for content in (result, envelope["result"]):
                content.pop("disk_free", None)  # other processes write to the disk too
                content.pop("seconds", None)  # of the first run; the second one had nothing to do
            assert envelope == {"ok": True, "command": name, "result": json.loads(json.dumps(result))}


def save_hf_model(folder: Path) -> None:
    """Save a small GPT-2 of transformers."""
    import transformers

    config = transformers.GPT2Config(vocab_size=300, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    train_tokenizer("bpe", 300, ["a lamp and a clock"]).save(folder)


def call_python_function(name: str, argv: list[str]) -> Any:
    """Call the Python function of a command with the arguments of a command line."""
    positional, options = [], {}
    fields = registry.COMMANDS[name].model_fields
    words = iter(argv)
    for word in words:
        key = word[2:].replace("-", "_")
        if not word.startswith("--"):
            positional.append(word)
        else:
            options[key] = True if base_type(fields[key]) is bool else next(words)
    python_name = {"eval": "evaluate", "import": "import_hf"}.get(name, name)
    return getattr(bertgpt, python_name)(*positional, **options)


def test_every_command_has_two_or_three_examples_and_a_summary() -> None:
    for name, model in registry.COMMANDS.items():
        assert model.command == name
        assert 2 <= len(model.examples) <= 3, name
        assert (model.__doc__ or "").split("\n")[0].endswith("."), name
        for key, field in model.model_fields.items():
            assert re.fullmatch(r"[A-Z].*\.", field.description or ""), f"{name} {key}"


def test_tasks_of_inspect_are_those_of_tinyworld() -> None:
    assert choices(registry.COMMANDS["inspect"].model_fields["task"]) == tuple(TASKS)


def test_help_is_fast() -> None:
    """0.4 s, or on a slow or busy machine twice the time that importing the libraries takes."""
    libraries: list[float] = []
    seconds: dict[str, list[float]] = {"--help": [], "pretrain --help": []}
    for _ in range(3):
        libraries.append(libraries_cpu_seconds())
        for argv, measured in seconds.items():
            start = subprocess_cpu_seconds()
            subprocess.run([sys.executable, "-m", "bertgpt", *argv.split()], check=True, capture_output=True)
            measured.append(subprocess_cpu_seconds() - start)
    for measured in seconds.values():
        assert min(measured) < max(0.4, 2 * min(libraries))  # other processes only ever add to a time


@pytest.mark.parametrize(
    "code", ["import bertgpt", "from bertgpt.cli.app import run; run(['--help']); run(['pretrain', '--help'])"]
)
def test_help_imports_nothing_heavy(code: str) -> None:
    check = f"{code}\nimport sys\nprint(*sys.modules, file=sys.stderr)"
    outcome = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    heavy = {"torch", "sklearn", "datasets", "pyarrow", "tokenizers", "tiktoken", "numpy", "yaml"}
    assert not heavy & set(outcome.stderr.split())


def test_rich_is_imported_for_help_only() -> None:
    check = "from bertgpt.cli.app import run; run(['--version']); import sys; print(*sys.modules, file=sys.stderr)"
    outcome = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert "rich" not in outcome.stderr.split()
