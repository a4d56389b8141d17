"""The rooms of the package that each command's output depends on.

One table for everything that asks whether an output is stale: `deps` in every dvc.yaml, the results of tasks in work
directories, and config.yaml of runs. A test compares it with the real imports of each stage.
"""

import hashlib
from pathlib import Path

BUILD = (
    "config", "data/build", "data/documents.py", "data/execution", "data/format.py", "data/sources", "data/tokenizers",
    "tinyworld", "utils",
)  # fmt: skip
MODEL = ("config", "data", "hub", "model.py", "ops", "training", "utils")
CODE_DEPS: dict[str, tuple[str, ...]] = {
    "tokenize": (*BUILD, "stages/tokenize.py"),
    "shard": (*BUILD, "stages/shard.py"),
    "mask": ("config", "data", "stages/mask.py", "utils"),
    "pretrain": (*MODEL, "callbacks", "stages", "trainer.py"),
    "finetune": (*MODEL, "evals", "inference", "stages", "tinyworld", "trainer.py"),
    "eval": (*MODEL, "evals", "inference", "stages/evaluate.py", "tinyworld"),
    "generate": (*MODEL, "inference", "stages/generate.py"),
    "inspect": ("config", "data", "stages/inspect.py", "tinyworld", "utils"),
    "export": (*MODEL, "stages/export.py"),
    "report": ("config", "data", "hub", "inference", "model.py", "reports", "stages/report.py", "utils"),
}
PACKAGE = Path(__file__).parents[1]


def code_hash(command: str) -> str:
    """The hash of the source files that the output of a command depends on."""
    paths = (PACKAGE / name for name in CODE_DEPS[command])
    files = sorted(file for path in paths for file in ([path] if path.suffix == ".py" else path.rglob("*.py")))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(PACKAGE).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()
