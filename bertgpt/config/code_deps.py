"""The rooms of the package that the output of each command depends on.

One table for everything that asks whether an output is stale: `deps` in every dvc.yaml, the results of tasks in work
directories, and config.yaml of runs. A test compares it with the imports of each stage.

Of `config`, files that only parse options are left out. DVC watches the options of a stage, since their defaults are
recorded nowhere else; tasks and runs record the value of every option, so their hash leaves those files out too.
"""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

BUILD = (
    "config/corpora.py", "config/data_options.py", "data/build", "data/documents.py", "data/execution",
    "data/format.py", "data/sources", "data/tokenizers", "tinyworld", "utils",
)  # fmt: skip
MODEL = ("config/presets.py", "data", "hub", "model.py", "ops", "training", "utils")
CODE_DEPS: dict[str, tuple[str, ...]] = {
    "tokenize": (*BUILD, "stages/tokenize.py"),
    "shard": (*BUILD, "stages/shard.py"),
    "mask": (
        "config/corpora.py", "config/data_options.py", "data/build", "data/execution", "data/format.py", "data/loading",
        "data/tokenizers", "stages/mask.py", "utils",
    ),
    "pretrain": (*MODEL, "callbacks", "config/training_options.py", "stages/pretrain.py", "trainer.py"),
    "finetune": (
        *MODEL, "config/corpora.py", "config/options.py", "config/training_options.py", "evals", "inference",
        "stages/finetune.py", "tinyworld", "trainer.py",
    ),
    "eval": (*MODEL, "config/corpora.py", "config/options.py", "evals", "inference", "stages/evaluate.py", "tinyworld"),
    "generate": (*MODEL, "config/options.py", "inference", "stages/generate.py"),
    "export": ("config/options.py", "config/presets.py", "data", "hub", "model.py", "ops", "stages/export.py", "utils"),
    "inspect": ("config/options.py", "data", "stages/inspect.py", "tinyworld", "utils"),
    "report": (*MODEL, "config/options.py", "inference", "reports", "stages/report.py", "tinyworld"),
}  # fmt: skip
# Rooms that a command imports only if an option asks for them.
OPTION_DEPS: dict[tuple[str, str], tuple[str, ...]] = {
    ("pretrain", "init"): ("inference",),
    ("pretrain", "sample_every"): ("inference",),
    ("pretrain", "probe"): ("config/corpora.py", "config/options.py", "evals", "inference", "tinyworld"),
    ("pretrain", "eval"): ("config/corpora.py", "config/options.py", "evals", "inference", "tinyworld"),
    ("inspect", "contamination"): (
        "config/corpora.py", "config/presets.py", "evals", "hub", "inference", "model.py", "ops", "training",
    ),
}  # fmt: skip


def code_deps(command: str, options: Iterable[str] = ()) -> tuple[str, ...]:
    """The rooms behind a command that is given some options."""
    asked = set(options)
    optional = [rooms for (name, option), rooms in OPTION_DEPS.items() if name == command and option in asked]
    return tuple(sorted({*CODE_DEPS[command], *(room for rooms in optional for room in rooms)}))


@cache
def code_hash(command: str, *options: str) -> str:
    """The hash of the source files that the output of a command depends on."""
    paths = [PACKAGE / name for name in code_deps(command, options) if not name.endswith("options.py")]
    files = sorted(file for path in paths for file in ([path] if path.suffix == ".py" else path.rglob("*.py")))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(PACKAGE).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()
