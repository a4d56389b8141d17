"""Batches from shards, beside the ways in which people make them today, in turn, on one core.

    python benchmarks/loader.py [--rounds 5]

Masked: 64 rows of 512, by `DataCollatorForLanguageModeling` as a Trainer calls it, and by a plan of ours: framing,
masks and labels. Causal: 8 windows of 1024, by the usual loop over a `numpy.memmap` with `torch.stack`, and by ours.
Text is tinyworld's; it comes from the page cache in all cases.
"""

import argparse
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
    """What a Trainer does for each batch: a list of features to a padded batch, then the masks."""
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(plan / "tokenizer")
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15)
    ids = open_mlm_dataset(plan, "train").batch(np.arange(ROWS * 8), np.zeros(ROWS * 8, int)).input_ids
    features = [{"input_ids": row.tolist()} for row in ids]
    return cycled([features[i : i + ROWS] for i in range(0, len(features), ROWS)], collate)


def cycled(batches: list[Any], call: Callable[[Any], Any]) -> Callable[[], None]:
    """One batch after the other, again and again."""
    state = [0]

    def once() -> None:
        call(batches[state[0] % len(batches)])
        state[0] += 1

    return once


def ours(samples: Dataset, size: int) -> Callable[[], None]:
    """Step after step."""
    loader, state = StepLoader(ShuffledStream(samples, 1, size)), [0]

    def once() -> None:
        loader.batch(state[0], 0)
        state[0] += 1

    return once


def memmap(file: Path) -> Callable[[], None]:
    """The usual loop: random places, a slice of a fresh memory map for each row, converted and stacked."""

    def once() -> None:
        data = np.memmap(file, dtype=np.uint16, mode="r")
        places = torch.randint(len(data) - CONTEXT, (WINDOWS,))
        torch.stack([torch.from_numpy(data[i : i + CONTEXT].astype(np.int64)) for i in places])
        torch.stack([torch.from_numpy(data[i + 1 : i + 1 + CONTEXT].astype(np.int64)) for i in places])

    return once


def speed(call: Callable[[], None], tokens: int, seconds: float = 0.5) -> float:
    """Tokens in a second."""
    call()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        call()
        calls += 1
    return calls * tokens / (time.perf_counter() - start)


def compare(title: str, calls: dict[str, Callable[[], None]], tokens: int, rounds: int) -> None:
    """In turn, and the medians; ratios to the first."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(speed(call, tokens))
    medians = {name: statistics.median(values) for name, values in found.items()}
    first = next(iter(medians.values()))
    console = Console()
    console.heading(title)
    console.table(
        ("", "M tokens/s", "range", "ratio"),
        [
            (
                name,
                f"{median / 1e6:.2f}",
                f"{min(found[name]) / 1e6:.2f}-{max(found[name]) / 1e6:.2f}",
                f"{median / first:.2f}",
            )
            for name, median in medians.items()
        ],
    )
    console.text()


def main() -> None:
    """Make shards and plans, and compare."""
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
        calls |= {f"a plan, {scheme}": ours(open_mlm_dataset(plan, "train"), ROWS) for scheme, plan in plans.items()}
        compare(f"Masked: {ROWS} rows of {LENGTH}", calls, ROWS * LENGTH, rounds)
        flat = Path(folder) / "bin"
        bertgpt.export(str(shards), out=str(flat))
        calls = {"numpy.memmap and torch.stack": memmap(flat / "train.bin")}
        calls["windows of shards"] = ours(CausalDataset(shards, "train", CONTEXT), WINDOWS)
        compare(f"Causal: {WINDOWS} windows of {CONTEXT}", calls, WINDOWS * CONTEXT, rounds)


if __name__ == "__main__":
    main()
