"""Forward and backward of the model against `transformers`: the same shapes and targets, on this CPU.

    python benchmarks/model.py [--rounds 5]

Masked: dim 384, 6 layers, 6 heads, vocabulary of 30,522, 32 rows of 128, 15 % masked, against BertForMaskedLM. Causal:
the same with a vocabulary of 8,192 and 8 rows of 256, against GPT2LMHeadModel. In fp32 and bf16 autocast; transformers
with SDPA. Memory: the peak of one causal step with a vocabulary of 50,261 and 16 rows of 512, beyond what was in use
before, each in its own process.
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

ROLES = {"pad": 0, "cls": 1, "sep": 2, "mask": 3, "eos": 4}
Call = Callable[[], Any]


def hf_model(config: ModelConfig, name: str) -> Any:
    """A model of transformers with the same shape."""
    import transformers

    layout = layout_of(config, name == "GPT2LMHeadModel")
    hf_config = transformers.AutoConfig.for_model(**to_hf_config(config, layout, ROLES), attn_implementation="sdpa")
    return getattr(transformers, name)(hf_config).train()


def masked_rows(config: ModelConfig, rows: int, length: int) -> Any:
    """Rows of one segment each, with 15 % masked."""
    rng = np.random.default_rng(0)
    num_targets = round(0.15 * length)
    ids = rng.integers(5, config.vocab_size, (rows, length))
    positions = np.sort(np.argsort(rng.random((rows, length - 2)), axis=1)[:, :num_targets] + 1, axis=1)
    arrays = (
        ids, np.full(rows, length), np.zeros((rows, 1), int), np.full((rows, 1), length), np.full((rows, 1), 2),
        positions, np.take_along_axis(ids, positions, axis=1), np.full(rows, num_targets),
    )  # fmt: skip
    return MLMBatch(*(torch.from_numpy(np.asarray(array)) for array in arrays))  # type: ignore[arg-type]


def masked_calls(dtype: torch.dtype) -> dict[str, Call]:
    """Forward and backward of each model."""
    config = make_config(384, 6, 6, 30_522, BERT | {"max_seq_len": 128})
    rows = masked_rows(config, 32, 128)
    model, objective, hf = init_model(config, 0).train(), MaskedLM(mask_id=3), hf_model(config, "BertForMaskedLM")
    labels: Tensor = torch.full_like(rows.input_ids, -100).scatter(1, rows.masked_positions, rows.labels)
    return {
        "BertForMaskedLM": forward_backward(hf, lambda: hf(rows.input_ids, labels=labels).loss, dtype),
        "bertgpt": forward_backward(model, lambda: objective(model, rows)["mlm"].loss / rows.num_targets.sum(), dtype),
    }


def causal_calls(dtype: torch.dtype, vocab: int = 8192, rows: int = 8, length: int = 256) -> dict[str, Call]:
    """Forward and backward of each model."""
    config = make_config(384, 6, 6, vocab, GPT2 | {"max_seq_len": length})
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, vocab, (rows, length + 1)))
    windows = CausalBatch(ids, torch.full((rows,), length))  # type: ignore[arg-type]
    model, objective, hf = init_model(config, 0).train(), CausalLM(), hf_model(config, "GPT2LMHeadModel")

    def hf_loss() -> Tensor:
        logits = hf(ids[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())

    return {
        "GPT2LMHeadModel": forward_backward(hf, hf_loss, dtype),
        "bertgpt": forward_backward(model, lambda: objective(model, windows)["clm"].loss / ids[:, 1:].numel(), dtype),
    }


def forward_backward(model: torch.nn.Module, loss: Call, dtype: torch.dtype) -> Call:
    """A function that runs forward and backward."""

    def call() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = loss()
        value.backward()

    return call


def speed(call: Call, tokens: int, calls: int = 4) -> float:
    """Tokens per second."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return calls * tokens / (time.perf_counter() - start)


def compare(title: str, make: Callable[[torch.dtype], dict[str, Call]], tokens: int, rounds: int) -> None:
    """Print median speeds in alternating rounds, and ratios to transformers in the same precision."""
    rows = []
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        calls = make(dtype)
        for call in calls.values():
            call()
        speeds: dict[str, list[float]] = {who: [] for who in calls}
        for _ in range(rounds):
            for who, call in calls.items():
                speeds[who].append(speed(call, tokens))
        first = statistics.median(next(iter(speeds.values())))
        for who, values in speeds.items():
            median = statistics.median(values)
            spread = f"{min(values):,.0f}-{max(values):,.0f}"
            rows.append((who, name, f"{median:,.0f}", spread, f"{median / first:.2f}"))
    console = Console()
    console.heading(title)
    console.table(("", "", "tokens/s", "range", "ratio"), rows)
    console.text()


def memory(who: str) -> float:
    """Peak memory of a step in MB, measured in a subprocess."""
    argv = [sys.executable, __file__, "--memory", who]
    return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def memory_here(who: str) -> float:
    """Peak memory of a step in MB, measured in this process."""
    call = causal_calls(torch.float32, 50_261, 16, 512)[who]
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = memory_in_kb("VmRSS")
    call()
    return (memory_in_kb("VmHWM") - before) / 1024


def memory_in_kb(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--memory", choices=["GPT2LMHeadModel", "bertgpt"], help="print only the peak memory of this model"
    )
    options = parser.parse_args()
    if options.memory:
        print(memory_here(options.memory))
        return
    compare("Masked: dim 384, 6 layers, vocabulary 30,522, 32 rows of 128", masked_calls, 32 * 128, options.rounds)
    compare("Causal: dim 384, 6 layers, vocabulary 8,192, 8 rows of 256", causal_calls, 8 * 256, options.rounds)
    peaks = {who: memory(who) for who in ("GPT2LMHeadModel", "bertgpt")}
    first = peaks["GPT2LMHeadModel"]
    console = Console()
    console.heading("Memory of a causal step: dim 384, 6 layers, vocabulary 50,261, 16 rows of 512, fp32")
    rows = [(who, f"{value:,.0f}", f"{value / first:.2f}") for who, value in peaks.items()]
    console.table(("", "MB", "ratio"), rows)


if __name__ == "__main__":
    main()
