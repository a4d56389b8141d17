"""The table of code dependencies: what DVC watches, what runs and tasks hash, and what stages import, are the same."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertgpt.cli.registry import stage_module
from bertgpt.config import code_deps as module
from bertgpt.config.code_deps import CODE_DEPS, OPTION_DEPS, code_deps
from tests.test_layers import MODULES, own_imports

ROOT = Path(__file__).parents[1]
FEW = 10  # dependencies of a stage on code; those that train or evaluate reach more rooms than that
MANY = {"finetune": 12, "eval": 11, "report": 11}
PARSING = {"config.code_deps", "config.fields", "config.renamed", "config.resolve", "config.yaml_files"}
CALLBACKS_OF_OPTIONS = {"callbacks.benchmarks", "callbacks.samples"}


def room_of(name: str) -> str:
    """A module as the table writes it: a room, or a file that stands alone."""
    parts = name.split(".")
    if parts[0] == "data" and len(parts) > 1:
        return f"data/{parts[1]}" + (".py" if parts[1] in ("format", "documents") else "")
    if parts[0] in ("stages", "config") and len(parts) > 1:
        return f"{parts[0]}/{parts[1]}.py"
    return f"{parts[0]}.py" if parts[0] in ("model", "trainer") else parts[0]


def imported_rooms(command: str, optional: set[str]) -> set[str]:
    """Every room that a stage imports, directly or not, without what it imports itself of optional rooms."""
    stage = stage_module(command).__name__.removeprefix("bertgpt.")
    left = {name for name in own_imports(MODULES[stage]) if room_of(name) not in optional}
    if optional:
        left -= CALLBACKS_OF_OPTIONS
    seen = {stage}
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left |= own_imports(MODULES[name])
    return {room_of(name) for name in seen - PARSING if "." in name or name in ("model", "trainer")}


def covered(room: str, deps: tuple[str, ...]) -> bool:
    """Whether a room is in the table, by itself or as part of `data`."""
    return room in deps or (room.startswith("data/") and "data" in deps)


@pytest.mark.parametrize("command", sorted(CODE_DEPS))
def test_table_is_what_a_stage_imports(command: str) -> None:
    optional = {room for (name, _), rooms in OPTION_DEPS.items() if name == command for room in rooms}
    rooms = imported_rooms(command, optional - set(CODE_DEPS[command]))
    assert not {room for room in rooms if not covered(room, CODE_DEPS[command])}
    unused = {dep for dep in CODE_DEPS[command] if dep not in rooms and dep != "data"}
    assert not unused
    rooms = {"config" if dep.startswith("config/") else dep for dep in CODE_DEPS[command]}
    assert len(rooms) <= MANY.get(command, FEW)


@pytest.mark.parametrize("command", sorted({name for name, _ in OPTION_DEPS}))
def test_rooms_of_options_are_the_rest_of_what_a_stage_imports(command: str) -> None:
    every = code_deps(command, [option for name, option in OPTION_DEPS if name == command])
    assert not {room for room in imported_rooms(command, set()) if not covered(room, every)}


def test_hash_ignores_other_rooms_and_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of tasks and runs stay valid when a help text or the report changes, and not when what they used does."""
    package = tmp_path / "bertgpt"
    shutil.copytree(module.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", package)
    commands = ("tokenize", "shard", "mask", "pretrain", "finetune")

    def changed_by(name: str) -> set[str]:
        before = {command: module.code_hash.__wrapped__(command) for command in commands}
        file = package / name
        file.write_text(file.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
        return {command for command in commands if module.code_hash.__wrapped__(command) != before[command]}

    for name in ("config/options.py", "config/training_options.py", "config/data_options.py", "config/fields.py"):
        assert changed_by(name) == set()
    assert changed_by("reports/page.py") == set()
    assert changed_by("trainer.py") == {"pretrain", "finetune"}
    assert changed_by("data/build/shuffle.py") == set(commands)
    assert changed_by("data/sources/files.py") == {"tokenize", "shard", "pretrain", "finetune"}


def stages_of(file: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """Every stage of a dvc.yaml with the command of bertgpt that it runs."""
    found = []
    for name, stage in yaml.safe_load(file.read_text())["stages"].items():
        stage = stage.get("do", stage)
        commands = [stage["cmd"]] if isinstance(stage["cmd"], str) else stage["cmd"]
        found += [(name, text, stage) for text in commands if "bertgpt " in text]
    return found


STAGES = [
    pytest.param(file, *stage, id=f"{file.parent.name}-{stage[0]}")
    for file in (ROOT / "dvc.yaml", *sorted(ROOT.glob("pipelines/*/dvc.yaml")))
    for stage in stages_of(file)
]


def options_of(file: Path, text: str) -> set[str]:
    """Options that a stage sets away from their defaults, on its command line or by --config, for all its variants."""
    words = shlex.split(text)
    names = {word[2:].replace("-", "_") for word in words if word.startswith("--")}
    for section in re.findall(r"params\.yaml:([\w.]+)", text):
        params = yaml.safe_load((file.parent / "params.yaml").read_text())
        part = params.get(section.split(".")[0], {})
        nested = [value for value in part.values() if isinstance(value, dict)] or [part]
        names |= {key.replace("-", "_") for section_ in nested for key in section_}
    for section in re.findall(r"\$\{(\w+)\}", text):
        params = yaml.safe_load((file.parent / "params.yaml").read_text())
        part = params.get(section)
        names |= {key.replace("-", "_") for key in part} if isinstance(part, dict) else set()
    return names


@pytest.mark.parametrize(("file", "name", "text", "stage"), STAGES)
def test_dvc_watches_the_code_of_every_stage(file: Path, name: str, text: str, stage: dict[str, Any]) -> None:
    words = shlex.split(text)
    command = words[words.index("bertgpt") + 1]
    watched = {dep.split("bertgpt/", 1)[1] for dep in stage.get("deps", ()) if "bertgpt/" in dep}
    recipe = file.parent != ROOT  # a project of its own, which runs the installed package and watches no code
    assert watched == (set() if recipe else set(code_deps(command, options_of(file, text))))
