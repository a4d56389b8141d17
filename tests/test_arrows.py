"""The house: modules import in one direction only, and each layer knows no more than it should."""

import ast
from pathlib import Path

import bertgpt

PACKAGE = Path(bertgpt.__file__).parent

# Each layer may import from itself and from the layers below it.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"help"},
    {"commands"},
    {"exporting", "pretraining", "finetuning", "language_model", "reports"},
    {"running"},
    {"held_out", "samples", "models", "evals"},
    {"generation", "filling", "features", "classifying"},
    {"decoding", "likelihood", "run_folder"},
    {"trainer"},
    {"checkpoint", "tally", "journal", "clock", "processes", "runtime"},
    {"importing"},
    {"counts"},
    {"saved", "hub", "objectives", "initial"},
    {"batches", "sampling"},
    {"loss", "model", "optim"},
    {"adamw", "muon", "packing"},
    {"kernels"},
    {"shards"},
    {"tokens", "corpora"},
    {"console"},
    {"files", "draws", "texts", "yaml_files", "resolving", "config", "fields", "presets", "catalogue"},
    {"errors"},
    {"__init__"},
]
NEEDED_LATER = {
    "torch",
    "numpy",
    "pyarrow",
    "tokenizers",
    "tiktoken",
    "gigatoken",
    "tokie",
    "datasets",
    "sklearn",
    "rich",
}
# Third-party modules that a layer may import at the top of a module, so that everything else stays lazy.
HEAVY: dict[str, set[str]] = (
    {
        "corpora": {"numpy"},
        "draws": {"numpy"},
        "texts": {"numpy"},
        "tokens": {"numpy"},
        "shards": {"numpy", "pyarrow"},
    }
    | {
        name: {"torch"}
        for name in (
            "exporting",
            "saved",
            "hub",
            "objectives",
            "initial",
            "loss",
            "model",
            "runtime",
            "kernels",
            "optim",
            "adamw",
            "muon",
            "running",
            "checkpoint",
            "tally",
            "pretraining",
            "models",
            "run_folder",
            "processes",
            "importing",
            "batches",
            "likelihood",
            "decoding",
        )
    }
    | {
        "trainer": {"torch", "numpy"},
        "held_out": {"torch", "numpy"},
        "sampling": {"torch", "numpy"},
        "generation": {"torch", "numpy"},
        "filling": {"torch", "numpy"},
        "features": {"torch", "numpy"},
        "classifying": {"torch", "numpy"},
        "finetuning": {"torch", "numpy"},
        "packing": {"numpy"},
        "counts": {"torch", "numpy"},
        "evals": {"torch", "numpy", "pyarrow"},
        "language_model": {"numpy"},
        "reports": {"numpy"},
    }
)


def layer_of(part: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if part in layer)


def imports(path: Path, top_only: bool) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else list(ast.walk(tree))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_module_has_a_layer() -> None:
    assert {part_of(path) for path in PACKAGE.rglob("*.py")} == set.union(*LAYERS)


def test_arrows_point_one_way() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        here = layer_of(part_of(path))
        for name in imports(path, top_only=False):
            if name.split(".")[0] != "bertgpt":
                continue
            target = name.split(".")[1]
            target = target if (PACKAGE / target).exists() or (PACKAGE / f"{target}.py").exists() else "__init__"
            same_part = target == part_of(path)
            if layer_of(target) < here or (layer_of(target) == here and not same_part and here != layer_of("config")):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_heavy_packages_are_imported_where_they_are_needed_and_not_before() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        heavy = {name.split(".")[0] for name in imports(path, top_only=True)} & NEEDED_LATER
        if heavy - HEAVY.get(part_of(path), set()):
            wrong.append((path.name, heavy))
    assert not wrong


def test_no_click_no_pickle_no_eval() -> None:
    for path in PACKAGE.rglob("*.py"):
        modules = {name.split(".")[0] for name in imports(path, top_only=False)}
        assert not modules & {"click", "pickle", "marshal", "dill", "random"}, path
        calls = {
            n.func.id
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        assert not calls & {"eval", "exec", "hash"}, path
