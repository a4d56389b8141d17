"""Data loader throughput against DataCollatorForLanguageModeling and a loop over numpy.memmap, on one core.

    python benchmarks/loader.py [--rounds 5]

Masked: 64 rows of 512, from `DataCollatorForLanguageModeling` as a Trainer calls it, and from a mask plan: special
tokens, masks and labels. Causal: 8 windows of 1024, from nanoGPT's loop over a `numpy.memmap` with `torch.stack`, and
from shards. The text is tinyworld's, and in the page cache in all cases. Alternating rounds; medians.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import numpy as np
import torch

import bertgpt
from bertgpt.data.loading.causal import CausalDataset
from bertgpt.data.loading.loader import Dataset, ShuffledStream, StepLoader
from bertgpt.data.loading.mlm import open_mlm_dataset
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.utils.console import Console

ROWS, LENGTH = 64, 512
WINDOWS, CONTEXT = 8, 1024


def collator(plan: Path) -> Callable[[], None]:
    """What a Trainer does for each batch: collate a list of features into a padded batch, then mask it."""
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(plan / "tokenizer")
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15)
    input_ids = open_mlm_dataset(plan, "train").batch(np.arange(ROWS * 8), np.zeros(ROWS * 8, int)).input_ids
    features = [{"input_ids": row.tolist()} for row in input_ids]
    return cycle([features[i : i + ROWS] for i in range(0, len(features), ROWS)], collate)


def cycle(batches: list[Any], call: Callable[[Any], Any]) -> Callable[[], None]:
    """A function that calls `call` with the next batch, in a cycle."""
    upcoming = itertools.cycle(batches)
    return lambda: call(next(upcoming))


def step_loader(dataset: Dataset, batch_size: int) -> Callable[[], None]:
    """The batches of a StepLoader, step by step."""
    steps = StepLoader(ShuffledStream(dataset, 1, batch_size)).steps()
    return lambda: next(steps)


def memmap(file: Path) -> Callable[[], None]:
    """nanoGPT's get_batch: a new memory map, random offsets, and a slice for each row, converted and stacked."""

    def get_batch() -> None:
        data = np.memmap(file, dtype=np.uint16, mode="r")
        offsets = torch.randint(len(data) - CONTEXT, (WINDOWS,))
        torch.stack([torch.from_numpy(data[i : i + CONTEXT].astype(np.int64)) for i in offsets])
        torch.stack([torch.from_numpy(data[i + 1 : i + 1 + CONTEXT].astype(np.int64)) for i in offsets])

    return get_batch


def speed(call: Callable[[], None], tokens: int, seconds: float = 0.5) -> float:
    """Tokens per second."""
    call()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        call()
        calls += 1
    return calls * tokens / (time.perf_counter() - start)


def compare(title: str, calls: dict[str, Callable[[], None]], tokens: int, rounds: int) -> None:
    """Print the median speed of each, in alternating rounds, and its ratio to the first."""
    speeds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            speeds[name].append(speed(call, tokens))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    first = next(iter(medians.values()))
    console = Console()
    console.heading(title)
    console.table(
        ("", "M tokens/s", "range", "ratio"),
        [
            (
                name,
                f"{median / 1e6:.2f}",
                f"{min(speeds[name]) / 1e6:.2f}-{max(speeds[name]) / 1e6:.2f}",
                f"{median / first:.2f}",
            )
            for name, median in medians.items()
        ],
    )
    console.text()


def main() -> None:
    """Build shards and mask plans, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shards, plans = Path(folder) / "shards", {}
        bertgpt.shard(
            "tinyworld", limit_docs=60_000, train_tokenizer="bpe", vocab_size=8192, out=str(shards), workers=1
        )
        for scheme in ("token", "whole-word", "span"):
            plans[scheme] = Path(folder) / scheme
            bertgpt.mask(str(shards), out=str(plans[scheme]), seq_len=LENGTH, scheme=scheme, workers=1)
        assert load_tokenizer(plans["token"] / "tokenizer").fingerprint
        calls = {"DataCollatorForLanguageModeling": collator(plans["token"])}
        calls |= {
            f"mask plan, {scheme}": step_loader(open_mlm_dataset(plan, "train"), ROWS) for scheme, plan in plans.items()
        }
        compare(f"Masked: {ROWS} rows of {LENGTH}", calls, ROWS * LENGTH, rounds)
        flat = Path(folder) / "bin"
        bertgpt.export(str(shards), out=str(flat))
        calls = {"numpy.memmap and torch.stack": memmap(flat / "train.bin")}
        calls["causal windows of shards"] = step_loader(CausalDataset(shards, "train", CONTEXT), WINDOWS)
        compare(f"Causal: {WINDOWS} windows of {CONTEXT}", calls, WINDOWS * CONTEXT, rounds)


if __name__ == "__main__":
    main()
