"""Training passes of the model beside `transformers`: the same shapes and targets, in turn, on this CPU.

    python benchmarks/model.py [--rounds 5]

Masked: d384 L6 H6, 30 522 ids, 32 rows of 128, 15 % hidden, beside BertForMaskedLM. Causal: d384 L6 H6, 8 192 ids, 8
rows of 256, beside GPT2LMHeadModel. Both forward and backward, in fp32 and bf16 autocast, theirs with SDPA attention.
Memory: the most that one causal step with 50 261 ids at 16 rows of 512 takes beyond what there was before, each in a
process of its own.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

from bertgpt.config.presets import BERT, GPT2, ModelConfig, make_config
from bertgpt.data.loading.causal import CausalBatch
from bertgpt.data.loading.mlm import MLMBatch
from bertgpt.hub.mapping import layout_of, to_hf_config
from bertgpt.training.init import init_model
from bertgpt.training.objectives import CausalLM, MaskedLM
from bertgpt.utils.console import Console

ROLES = {"pad": 0, "cls": 1, "sep": 2, "mask": 3, "end": 4}
Call = Callable[[], Any]


def their_model(config: ModelConfig, name: str) -> Any:
    """A model of theirs with the same shape."""
    import transformers

    layout = layout_of(config, name == "GPT2LMHeadModel")
    theirs = transformers.AutoConfig.for_model(**to_hf_config(config, layout, ROLES), attn_implementation="sdpa")
    return getattr(transformers, name)(theirs).train()


def masked_rows(config: ModelConfig, rows: int, length: int) -> Any:
    """One piece in each row, and 15 % of it hidden."""
    draws = np.random.default_rng(0)
    slots = round(0.15 * length)
    ids = draws.integers(5, config.vocab_size, (rows, length))
    places = np.sort(np.argsort(draws.random((rows, length - 2)), axis=1)[:, :slots] + 1, axis=1)
    arrays = (
        ids, np.full(rows, length), np.zeros((rows, 1), int), np.full((rows, 1), length), np.full((rows, 1), 2),
        places, np.take_along_axis(ids, places, axis=1), np.full(rows, slots),
    )  # fmt: skip
    return MLMBatch(*(torch.from_numpy(np.asarray(array)) for array in arrays))  # type: ignore[arg-type]


def masked_calls(dtype: torch.dtype) -> dict[str, Call]:
    """A training pass of each."""
    config = make_config(384, 6, 6, 30_522, BERT | {"context": 128})
    rows = masked_rows(config, 32, 128)
    model, objective, other = init_model(config, 0).train(), MaskedLM(mask_id=3), their_model(config, "BertForMaskedLM")
    labels: Tensor = torch.full_like(rows.input_ids, -100).scatter(1, rows.masked_positions, rows.labels)
    return {
        "BertForMaskedLM": trained(other, lambda: other(rows.input_ids, labels=labels).loss, dtype),
        "bertgpt": trained(model, lambda: objective(model, rows)["mlm"].loss / rows.num_targets.sum(), dtype),
    }


def causal_calls(dtype: torch.dtype, vocab: int = 8192, rows: int = 8, length: int = 256) -> dict[str, Call]:
    """A training pass of each."""
    config = make_config(384, 6, 6, vocab, GPT2 | {"context": length})
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, vocab, (rows, length + 1)))
    windows = CausalBatch(ids, torch.full((rows,), length))  # type: ignore[arg-type]
    model, objective, other = init_model(config, 0).train(), CausalLM(), their_model(config, "GPT2LMHeadModel")

    def their_loss() -> Tensor:
        logits = other(ids[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())

    return {
        "GPT2LMHeadModel": trained(other, their_loss, dtype),
        "bertgpt": trained(model, lambda: objective(model, windows)["clm"].loss / ids[:, 1:].numel(), dtype),
    }


def trained(model: torch.nn.Module, loss: Call, dtype: torch.dtype) -> Call:
    """Forward and backward."""

    def once() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = loss()
        value.backward()

    return once


def speed(call: Call, tokens: int, calls: int = 4) -> float:
    """Tokens in a second."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return calls * tokens / (time.perf_counter() - start)


def compare(title: str, make: Callable[[torch.dtype], dict[str, Call]], tokens: int, rounds: int) -> None:
    """In turn, and the medians; ratios to theirs in the same precision."""
    rows = []
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        calls = make(dtype)
        for call in calls.values():
            call()
        found: dict[str, list[float]] = {who: [] for who in calls}
        for _ in range(rounds):
            for who, call in calls.items():
                found[who].append(speed(call, tokens))
        first = statistics.median(next(iter(found.values())))
        for who, values in found.items():
            median = statistics.median(values)
            spread = f"{min(values):,.0f}-{max(values):,.0f}"
            rows.append((who, name, f"{median:,.0f}", spread, f"{median / first:.2f}"))
    console = Console()
    console.heading(title)
    console.table(("", "", "tokens/s", "range", "ratio"), rows)
    console.text()


def memory(who: str) -> float:
    """The most megabytes that a step adds, in a process of its own."""
    argv = [sys.executable, __file__, "--memory", who]
    return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def memory_here(who: str) -> float:
    """The same, in this one."""
    call = causal_calls(torch.float32, 50_261, 16, 512)[who]
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = held("VmRSS")
    call()
    return (held("VmHWM") - before) / 1024


def held(which: str) -> int:
    """Kilobytes of this process, now or at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:"))


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", choices=["GPT2LMHeadModel", "bertgpt"], help="only this, and print a number")
    options = parser.parse_args()
    if options.memory:
        print(memory_here(options.memory))
        return
    compare("Masked: d384 L6 H6, 30 522 ids, 32 rows of 128", masked_calls, 32 * 128, options.rounds)
    compare("Causal: d384 L6 H6, 8 192 ids, 8 rows of 256", causal_calls, 8 * 256, options.rounds)
    taken = {who: memory(who) for who in ("GPT2LMHeadModel", "bertgpt")}
    first = taken["GPT2LMHeadModel"]
    console = Console()
    console.heading("Memory of a causal step: d384 L6 H6, 50 261 ids, 16 rows of 512, fp32")
    rows = [(who, f"{value:,.0f}", f"{value / first:.2f}") for who, value in taken.items()]
    console.table(("", "MB", "ratio"), rows)


if __name__ == "__main__":
    main()
