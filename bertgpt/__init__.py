"""bertgpt: pretrain BERT and GPT from scratch, with one architecture and one trainer.

Every command of the command line is a function with the same options, which returns what `--json` prints as `result`:

    tokenize  shard  mask               data: tokenized files, shuffled shards, mask plans
    pretrain  finetune                  training
    evaluate  generate  report          `bertgpt eval`, samples and filled masks, an HTML report
    inspect  export  import_hf          look at data, export for transformers or nanoGPT, `bertgpt import`
    new                                 a starter project for DVC

`load` loads a model to generate, fill masks, score, embed and classify:

    bertgpt.shard("tinyworld", out="data/tw", limit_docs=1000)
    bertgpt.load("runs/gpt").generate("There was a")
"""

import os
from importlib import import_module
from typing import Any

from bertgpt.utils.version import __version__ as __version__

# OpenMP threads that spin while they wait make small training steps up to fifty times slower on a shared machine.
# torch reads this when it is imported, which nothing does before this line.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Python name of each command: the same, unless Python has taken it.
COMMANDS = {
    "tokenize": "tokenize", "shard": "shard", "mask": "mask", "pretrain": "pretrain", "finetune": "finetune",
    "evaluate": "eval", "generate": "generate", "report": "report", "inspect": "inspect", "export": "export",
    "import_hf": "import", "new": "new",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a function when it is first used, so that importing bertgpt imports almost nothing."""
    if name == "load":
        import_module("bertgpt.utils.threads").set_openmp_spin_count()
        return import_module("bertgpt.inference.language_model").load
    if name in COMMANDS:
        function = globals()[name] = import_module("bertgpt.cli.registry").as_python_function(COMMANDS[name], name)
        return function
    raise AttributeError(f"module 'bertgpt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *COMMANDS, "load"])
