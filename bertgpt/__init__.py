"""bertgpt: pretrain BERT and GPT from scratch, as the same model.

Every command of the command line is a function here, with the same options and the same result:
`bertgpt inspect tinyworld --docs 2 --json` prints what `bertgpt.inspect("tinyworld", docs=2)` returns.
"""

import os
from importlib import import_module
from typing import Any

# OpenMP threads that spin while they wait make small training steps up to fifty times slower on a shared machine.
# It is read when torch is imported, which nothing here does before this line.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def stay_awake() -> None:
    """Have threads wait for a tenth of a millisecond before they sleep, if this machine has nothing else to do.

    Generation goes from one small product to the next: to wake a thread for each would be a third of its time. But
    where others compute, threads that wait awake take from everybody. Before torch is imported, as above.
    """
    if hasattr(os, "getloadavg") and os.getloadavg()[0] < (os.cpu_count() or 1) / 2:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")


__version__ = "0.1.0"


# The commands as functions. They are made when first asked for: importing bertgpt imports almost nothing.
SAME = ("tokenize", "shard", "mask", "pretrain", "finetune", "generate", "report", "inspect", "export")
FUNCTIONS = dict(zip(SAME, SAME, strict=True)) | {"import_hf": "import", "evaluate": "eval"}


def __getattr__(name: str) -> Any:
    if name == "load":
        stay_awake()
        return import_module("bertgpt.language_model").load
    if name not in FUNCTIONS:
        raise AttributeError(f"module 'bertgpt' has no attribute {name!r}")
    made = globals()[name] = import_module("bertgpt.commands").function(FUNCTIONS[name], name)
    return made


def __dir__() -> list[str]:
    return sorted([*globals(), *FUNCTIONS, "load"])
