"""bertgpt: pretrain BERT and GPT from scratch, as the same model.

Every command of the command line is a function here, with the same options and the same result:
`bertgpt inspect tinyworld --docs 2 --json` prints what `bertgpt.inspect("tinyworld", docs=2)` returns.
"""

import os
from importlib import import_module
from typing import Any

from bertgpt.utils.version import __version__ as __version__

# OpenMP threads that spin while they wait make small training steps up to fifty times slower on a shared machine.
# It is read when torch is imported, which nothing here does before this line.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


# The commands as functions. They are made when first asked for: importing bertgpt imports almost nothing.
SAME = ("tokenize", "shard", "mask", "pretrain", "finetune", "generate", "report", "inspect", "export")
FUNCTIONS = dict(zip(SAME, SAME, strict=True)) | {"import_hf": "import", "evaluate": "eval"}


def __getattr__(name: str) -> Any:
    if name == "load":
        import_module("bertgpt.utils.threads").stay_awake()
        return import_module("bertgpt.inference.language_model").load
    if name not in FUNCTIONS:
        raise AttributeError(f"module 'bertgpt' has no attribute {name!r}")
    made = globals()[name] = import_module("bertgpt.cli.registry").as_python_function(FUNCTIONS[name], name)
    return made


def __dir__() -> list[str]:
    return sorted([*globals(), *FUNCTIONS, "load"])
