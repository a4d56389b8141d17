"""Pretrain a small modern-bert in a quarter of an hour, and probe it on AG News.

    python benchmarks/agnews.py --data FOLDER --work FOLDER [--steps 600] [--random]

FOLDER holds fineweb-edu/*.parquet, enwiki/*.jsonl.zst, and agnews/{train-25k,test}.csv. Runs the printed commands;
finished ones are skipped. With so few steps, embeddings start from a PPMI factorisation and have a low learning rate;
`--random` starts from random init at the preset's learning rate instead.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    """Run the commands."""
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
    shards, masks = (str(work / name) for name in ("shards", "plan"))
    init = (
        ["--embedding-init", "random"]
        if options.random
        else ["--embedding-init", "ppmi", "--lr", "0.002", "--embedding-lr-scale", "0.05"]
    )
    commands = [
        ["shard", *texts, "--train-tokenizer", "bpe", "--vocab-size", "8192", "--shard-tokens", "5M", "--out", shards],
        ["mask", shards, "--seq-len", "64", "--mlm-probability", "0.4", "--scheme", "whole-word", "--out", masks],
        ["pretrain", masks, "--preset", "modern-bert-wide", *init, "--beta2", "0.999", "--tokens-per-step", "2048",
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
