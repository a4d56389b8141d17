"""Help pages: frozen, fast, light, and their examples run."""

import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bertgpt
from bertgpt.cli import registry
from bertgpt.cli.help import GENERAL, command_page, main_page, summary
from bertgpt.config.fields import base_type, choices
from bertgpt.data.tokenizers.train import train_tokenizer
from bertgpt.tinyworld.tasks import TASKS
from bertgpt.utils.console import Console
from tests.conftest import seconds_of_libraries, seconds_of_processes

SNAPSHOTS = Path(__file__).parent / "snapshots"
PAGES = ["bertgpt", *registry.COMMANDS]


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_as_they_were(page: str, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """To accept a change on purpose: delete the snapshot and run this once."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("--help") if page == "bertgpt" else run(page, "--help")
    snapshot = SNAPSHOTS / f"help-{page}.txt"
    if not snapshot.exists():
        snapshot.write_text(shown.out, encoding="utf-8")
        pytest.fail(f"wrote {snapshot.name}: look at it and commit it")
    assert shown.out == snapshot.read_text(encoding="utf-8")
    assert shown.code == 0
    assert max(map(len, shown.out.splitlines())) <= 80


def test_every_snapshot_has_a_page() -> None:
    assert {path.name for path in SNAPSHOTS.iterdir()} == {f"help-{page}.txt" for page in PAGES}


def test_one_line_for_each_command_in_the_order_of_the_pipeline(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = run("--help").out.partition("Commands\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == list(registry.COMMANDS)
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
    ]
    assert list(registry.COMMANDS) == [name for name in order if name in registry.COMMANDS]


def test_no_command_at_all_and_short_help_show_the_same_page(run: Callable[..., Any]) -> None:
    assert run().out == run("-h").out == run("--help").out


@pytest.mark.parametrize("columns", [1, 20, 33, 47, 48, 80, 200])
def test_pages_fit_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    unbroken = {"  --config FILE[:SECTION]", "  bertgpt COMMAND --help"} | {f"  {term}" for term in GENERAL}
    pages = [main_page(registry.COMMANDS), *(command_page(name, model) for name, model in registry.COMMANDS.items())]
    for line in "\n".join(pages).splitlines():
        words = line.removesuffix(" \\").split()
        assert len(line) <= max(columns, 20) + 2 or line in unbroken or len(words) <= 2, line


@pytest.mark.timeout(600)  # all commands, one after the other
def test_examples_run_and_python_returns_what_json_calls_result(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every example in the order of the pipeline, which is the order in which they need each other."""
    monkeypatch.chdir(tmp_path)
    other_model(Path("work/hf"))
    for name, model in registry.COMMANDS.items():
        for example in model.examples:
            program, command, *argv = shlex.split(example)
            assert (program, command) == ("bertgpt", name)
            done = run(name, *argv, *([] if "--json" in argv else ["--json"]))
            assert done.code == 0, done.err
            told = json.loads(done.out)
            result = as_function(name, [word for word in argv if word != "--json"])
            registry.module(name).show(result, Console())  # what is printed without --json
            grown = name == "generate" and "samples" in result and "masks" not in result["samples"][0]
            assert capfd.readouterr().out or grown  # which was shown while it grew
            for found in (result, told["result"]):
                found.pop("disk_free", None)  # others write too
                found.pop("seconds", None)  # of what was done the first time
            assert told == {"ok": True, "command": name, "result": json.loads(json.dumps(result))}


def other_model(folder: Path) -> None:
    """A small model of transformers."""
    import transformers

    config = transformers.GPT2Config(vocab_size=300, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    train_tokenizer("bpe", 300, ["a lamp and a clock"]).save(folder)


def as_function(name: str, argv: list[str]) -> Any:
    """The same by the function of the command."""
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
        assert 2 <= len(model.examples) <= 3, name
        assert summary(model).endswith("."), name
        assert all(field.description for field in model.model_fields.values()), name


def test_tasks_of_the_command_are_those_of_the_world() -> None:
    assert choices(registry.COMMANDS["inspect"].model_fields["task"]) == tuple(TASKS)


def test_help_is_fast() -> None:
    """On a machine that is slow or busy: no more than once again what the libraries under it take."""
    seconds, libraries = [], []
    for _ in range(5):
        libraries.append(seconds_of_libraries())
        start = seconds_of_processes()
        subprocess.run([sys.executable, "-m", "bertgpt", "--help"], check=True, capture_output=True)
        seconds.append(seconds_of_processes() - start)
    assert statistics.median(seconds) < max(0.4, 2 * statistics.median(libraries))


@pytest.mark.parametrize("code", ["import bertgpt", "from bertgpt.cli.app import run; run(['--help'])"])
def test_help_imports_nothing_heavy(code: str) -> None:
    check = f"{code}\nimport sys\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    heavy = {"torch", "sklearn", "datasets", "pyarrow", "tokenizers", "tiktoken", "numpy", "yaml", "rich.table"}
    assert not heavy & set(done.stderr.split())
