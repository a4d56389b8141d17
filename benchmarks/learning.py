"""Learning on tinyworld: tiny-gpt's excess over the true entropy, and tiny-bert's share of the Bayes optimum.

    python benchmarks/learning.py [--only gpt|bert] [--long] [--evaluate RUN]

Presets with their defaults and a BPE tokenizer of 4096 tokens, so that each of the 3,000 words is one token. Evaluated
on 500 (GPT) and 200 (BERT) documents that are in no corpus. `--long` trains on more documents.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import bertgpt
from bertgpt.evals.tinyworld import excess_nll, masked_word_accuracy
from bertgpt.inference.load import load_model
from bertgpt.tinyworld import Document, World
from bertgpt.tinyworld.tasks import SPLITS
from bertgpt.utils.console import Console

# Documents and steps (None: one epoch), by default and with --long.
RUNS = {"gpt": ((60_000, None), (200_000, None)), "bert": ((60_000, None), (150_000, 6000))}


def percent(value: float | None) -> str:
    """A share in percent, empty if undefined."""
    return "" if value is None else f"{100 * value:.1f} %"


def pretrain_tiny(kind: str, folder: Path, limit: int, steps: int | None) -> dict[str, Any]:
    """Make shards, and a mask plan for BERT, and pretrain on them."""
    shards, plan, run = (str(folder / name) for name in (f"{kind}-shards", "plan", kind))
    bertgpt.shard("tinyworld", out=shards, limit_docs=limit, train_tokenizer="bpe", vocab_size=4096, val_fraction=0.01)
    if kind == "gpt":
        return bertgpt.pretrain(shards, preset="tiny-gpt", max_steps=steps, out=run)
    bertgpt.mask(shards, out=plan, seq_len=256, mlm_probability=0.3)
    return bertgpt.pretrain(plan, preset="tiny-bert", max_steps=steps, out=run)


def evaluate(run: Path, documents: list[Document]) -> None:
    """Print the scores of a run, by category and in total."""
    console, (pretrained, _) = Console(), load_model(run)
    if pretrained.objective == "clm":
        scores = excess_nll(pretrained, World(0), documents)
        columns = ("category", "words", "entropy", "loss", "excess", "share of gap")
        rows = [
            (
                name, f"{s['words']:,}", f"{s['true_nll'] / s['words']:.3f}", f"{s['nll'] / s['words']:.3f}",
                percent(s["excess"]), percent(s.get("share_of_gap")),
            )
            for name, s in (*scores["by_category"].items(), ("all", scores))
        ]  # fmt: skip
    else:
        scores = masked_word_accuracy(pretrained, World(0), documents[:200])
        columns = ("category", "words", "accuracy", "Bayes optimum", "share of it")
        rows = [
            (name, f"{s['words']:,}", percent(s["accuracy"]), percent(s["bayes_accuracy"]), percent(s["share"]))
            for name, s in (*scores["by_category"].items(), ("all", scores))
        ]
    console.table(columns, rows)
    console.text()


def main() -> None:
    """Train and evaluate, or evaluate a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["gpt", "bert"])
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--evaluate", type=Path, help="a run to evaluate, instead of training")
    options = parser.parse_args()
    documents = list(World(0).documents(SPLITS["dev"], SPLITS["dev"] + 500))
    if options.evaluate:
        evaluate(options.evaluate, documents)
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("gpt", "bert"):
            if options.only in (None, kind):
                run = pretrain_tiny(kind, Path(folder), *RUNS[kind][options.long])
                minutes = run["seconds"]["total"] / 60
                Console().heading(
                    f"tiny-{kind}: {run['tokens']:,} tokens, {run['steps']:,} steps, {minutes:.1f} minutes"
                )
                evaluate(Path(run["path"]), documents)


if __name__ == "__main__":
    main()
