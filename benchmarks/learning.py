"""What is learned of tinyworld, whose truth is known: tiny-gpt's distance to the entropy, tiny-bert's to the oracle.

    python benchmarks/learning.py [--only gpt|bert] [--long] [--judge RUN]

Presets as they are, on documents of tinyworld in words (its text has about 3 000, and a tokenizer of 4096 takes all).
Judged are 500 (GPT) and 200 (BERT) documents that no corpus reaches. `--long` takes more documents.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import bertgpt
from bertgpt.evals.tinyworld import excess_nll, masked_word_accuracy
from bertgpt.inference import load
from bertgpt.tinyworld import World
from bertgpt.tinyworld.tasks import SPLITS
from bertgpt.utils.console import Console

# Documents, and steps where there are more than one round: as usual, and with --long.
RUNS = {"gpt": ((60_000, None), (200_000, None)), "bert": ((60_000, None), (150_000, 6000))}


def percent(value: float | None) -> str:
    """A share, if there is one."""
    return "" if value is None else f"{100 * value:.1f} %"


def trained(kind: str, folder: Path, limit: int, steps: int | None) -> dict[str, Any]:
    """A run by the command."""
    shards, plan, run = (str(folder / name) for name in (f"{kind}-shards", "plan", kind))
    bertgpt.shard("tinyworld", out=shards, limit_docs=limit, train_tokenizer="bpe", vocab_size=4096, val_fraction=0.01)
    if kind == "gpt":
        return bertgpt.pretrain(shards, preset="tiny-gpt", max_steps=steps, out=run)
    bertgpt.mask(shards, out=plan, seq_len=256, mlm_probability=0.3)
    return bertgpt.pretrain(plan, preset="tiny-bert", max_steps=steps, out=run)


def report(run: Path, documents: list[Any]) -> None:
    """By mechanism."""
    console, (kept, _) = Console(), load.load_model(run)
    if kept.objective == "clm":
        found = excess_nll(kept, World(0), documents)
        table = [
            (
                name, f"{f['words']:,}", f"{f['true_nats'] / f['words']:.3f}", f"{f['nats'] / f['words']:.3f}",
                percent(f["excess"]), percent(f.get("share_of_gap")),
            )
            for name, f in (*found["by_mechanism"].items(), ("all", found))
        ]  # fmt: skip
        console.table(("mechanism", "words", "true nats a word", "the model's", "above", "share of the gap"), table)
    else:
        found = masked_word_accuracy(kept, World(0), documents[:200])
        table = [
            (n, f"{f['words']:,}", percent(f["accuracy"]), percent(f["oracle_accuracy"]), percent(f["share"]))
            for n, f in (*found["by_mechanism"].items(), ("all", found))
        ]
        console.table(("mechanism", "words", "right", "the oracle", "share of that"), table)
    console.text()


def main() -> None:
    """Train and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["gpt", "bert"])
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--judge", type=Path, help="a run, instead of training one")
    options = parser.parse_args()
    judged = list(World(0).documents(SPLITS["dev"], SPLITS["dev"] + 500))
    if options.judge:
        report(options.judge, judged)
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("gpt", "bert"):
            if options.only in (None, kind):
                done = trained(kind, Path(folder), *RUNS[kind][options.long])
                minutes = done["seconds"]["total"] / 60
                Console().heading(
                    f"tiny-{kind}: {done['tokens']:,} ids, {done['steps']:,} steps, {minutes:.1f} minutes"
                )
                report(Path(done["path"]), judged)


if __name__ == "__main__":
    main()
