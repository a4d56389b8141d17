"""The rooms of the package: imports point downwards only, also those inside functions, and there are no circles."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import bertgpt

PACKAGE = Path(bertgpt.__file__).parent

# Each room may import from those after it.
ROOMS = [
    "cli", "stages", "reports", "callbacks", "trainer", "evals", "inference", "training", "hub", "model", "ops", "data",
    "tinyworld", "config", "utils",
]  # fmt: skip
DATA_ROOMS = ["build", "loading", "sources", "execution", "format", "tokenizers", "documents"]
# What only some rooms may import at the top of a module, so that the command line starts without it.
HEAVY = {
    "torch": {"stages", "callbacks", "trainer", "evals", "inference", "training", "hub", "model", "ops"},
    "numpy": {
        "stages", "reports", "callbacks", "trainer", "evals", "inference", "training", "hub", "data", "tinyworld",
        "utils",
    },
    "pyarrow": {"evals", "data"},
    "tokenizers": set(), "tiktoken": set(), "gigatoken": set(), "tokie": set(), "datasets": set(), "sklearn": set(),
    "scipy": set(), "rich": set(), "transformers": set(), "fsspec": set(),
}  # fmt: skip


def name_of(path: Path) -> str:
    """The dotted name of a module below `bertgpt`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


def imported(tree: ast.Module, top_only: bool = False) -> Iterator[str]:
    """The full name of everything that a module imports."""
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree: ast.Module) -> set[str]:
    """The modules of the package that a module imports, wherever in it."""
    names = {name.partition(".")[2] for name in imported(tree) if name.partition(".")[0] == "bertgpt"}
    return {name if name in MODULES else name.rpartition(".")[0] for name in names}


def height(module: str) -> tuple[int, int]:
    """The place of a module in the order of rooms, and in that of the rooms of `data`."""
    parts = module.split(".")
    return ROOMS.index(parts[0]), DATA_ROOMS.index(parts[1]) if parts[0] == "data" and len(parts) > 1 else -1


ENTRANCES = {"__init__", "__main__"}  # the package itself: nothing below may import from it


def test_every_folder_of_tests_is_collected(pytestconfig: pytest.Config) -> None:
    """pytest skips folders of some names: `build` is one by default."""
    here = Path(__file__).parent
    folders = {name for file in here.rglob("test_*.py") for name in file.relative_to(here).parts[:-1]}
    skipped = pytestconfig.getini("norecursedirs")
    assert not {name for name in folders for pattern in skipped if fnmatch(name, pattern)}


def test_only_two_modules_stand_outside_of_the_rooms() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "model.py", "trainer.py"}
    assert {name.split(".")[0] for name in MODULES} - ENTRANCES == set(ROOMS)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - ENTRANCES))
def test_imports_point_downwards(module: str) -> None:
    wrong = {name for name in own_imports(MODULES[module]) if not name or height(name) < height(module)}
    assert not wrong


def test_the_trainer_and_the_evaluations_do_not_know_each_other() -> None:
    assert not {name for name in own_imports(MODULES["trainer"]) if name.startswith("evals")}


def test_there_are_no_circles() -> None:
    left = {name: own_imports(tree) - {name} for name, tree in MODULES.items()}
    while free := {name for name, needed in left.items() if not needed & left.keys()}:
        left = {name: needed for name, needed in left.items() if name not in free}
    assert not left


@pytest.mark.parametrize("module", sorted(MODULES))
def test_heavy_packages_are_imported_where_they_are_needed_and_not_before(module: str) -> None:
    names = {name.split(".")[0] for name in imported(MODULES[module], top_only=True)}
    assert not {name for name in names & HEAVY.keys() if module.split(".")[0] not in HEAVY[name]}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_click_no_pickle_no_eval(module: str) -> None:
    tree = MODULES[module]
    assert not {name.split(".")[0] for name in imported(tree)} & {"click", "pickle", "marshal", "dill", "random"}
    calls = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not calls & {"eval", "exec", "hash"}
