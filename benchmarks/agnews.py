"""A small modern-bert from scratch in a quarter of an hour, and what it knows of AG News without reading it.

    python benchmarks/agnews.py --data FOLDER --work FOLDER [--steps 600]

FOLDER holds fineweb-edu/*.parquet, enwiki/*.jsonl.zst, and agnews/{train-25k,test}.csv. Each line is a command that can
be given by hand; what is there already is not made again. That is few steps, so embeddings begin as counts of
neighbours have them, and all moves slowly: `--random` shows what the same comes to from random embeddings at the
preset's rate.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    """The recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--random", action="store_true")
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    texts = [str(options.data / "fineweb-edu" / "*.parquet"), str(options.data / "enwiki" / "*.zst")]
    run = work / ("runs/random" if options.random else "runs/modern-bert")
    shards, plan = (str(work / name) for name in ("shards", "plan"))
    begin = (
        ["--embedding-init", "random"]
        if options.random
        else ["--embedding-init", "ppmi", "--lr", "0.002", "--embedding-lr-scale", "0.05"]
    )
    commands = [
        ["shard", *texts, "--train-tokenizer", "bpe", "--vocab-size", "8192", "--shard-tokens", "5M", "--out", shards],
        ["mask", shards, "--seq-len", "64", "--mlm-probability", "0.4", "--scheme", "whole-word", "--out", plan],
        ["pretrain", plan, "--preset", "modern-bert-wide", *begin, "--beta2", "0.999", "--tokens-per-step", "2048",
         "--warmup", "15", "--max-steps", str(options.steps), "--out", str(run)],
        ["eval", "agnews", "--model", str(run), "--data", str(options.data), "--out", str(work / "results" / run.name)],
    ]  # fmt: skip
    for argv in commands:
        start = time.monotonic()
        print("$ bertgpt", *argv, flush=True)
        subprocess.run([sys.executable, "-m", "bertgpt", *argv], check=True)
        print(f"{(time.monotonic() - start) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
