"""Text to shards, beside the ways in which people do it today, on the same files, in turn.

    python benchmarks/shard.py --data FOLDER [--rounds 5] [--only large|sample|wordpiece] [--megabytes 520]

FOLDER holds fineweb-edu/*.parquet, enwiki/*.jsonl.zst and tokenizers/{gpt2,bert-base-uncased}. The large corpus is
those texts and as much of tinyworld as is missing, all distinct. Each run is a process of its own, from its start to
its last byte on disk: `bertgpt shard` with its hashes, its check against the reference and its manifest; a
multiprocessing pool over tiktoken that writes flat uint16 shards; `datasets.map` over `tokenizers` with two processes.
What the last two need of the files in Arrow form is made in a warm-up that does not count.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.utils.console import Console

PROCESSES = 2
SHARD = 10_000_000  # tokens


# ---------------------------------------------------------------------------------------------------- the peers


def tiktoken_of(folder: Path):  # noqa: ANN201
    """GPT-2's encoding from its files."""
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import r50k_pat_str

    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    return tiktoken.Encoding(
        "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )


def start_encoder(folder: Path) -> None:
    """What each process of the pool does first."""
    global _encoding
    _encoding = tiktoken_of(folder)


def encode_document(text: str):  # noqa: ANN201
    """A document with its end in front, as uint16."""
    import numpy as np

    return np.array([50256, *_encoding.encode_ordinary(text)], np.uint16)


def tiktoken_pool(files: list[str], tokenizer: Path, out: Path) -> None:
    """A pool of processes encodes, one process fills shards of a fixed size and writes them."""
    import multiprocessing

    import numpy as np
    from datasets import Dataset

    texts = Dataset.from_parquet(files, cache_dir=str(out.parent / "cache"))["text"]
    out.mkdir()
    shard, filled, index = np.empty(SHARD, np.uint16), 0, 0
    with multiprocessing.Pool(PROCESSES, start_encoder, (tokenizer,)) as pool:
        for ids in pool.imap(encode_document, texts, chunksize=16):
            while filled + len(ids) >= SHARD:
                shard[filled:] = ids[: SHARD - filled]
                ids = ids[SHARD - filled :]
                np.save(out / f"{index:06}.npy", shard)
                filled, index = 0, index + 1
            shard[filled : filled + len(ids)] = ids
            filled += len(ids)
    np.save(out / f"{index:06}.npy", shard[:filled])


def datasets_map(files: list[str], tokenizer: Path, out: Path) -> None:
    """`datasets.map` in batches, then the ids in one flat file."""
    import numpy as np
    from datasets import Dataset
    from tokenizers import Tokenizer

    fast = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": [e.ids for e in fast.encode_batch(batch["text"], add_special_tokens=False)]}

    data = Dataset.from_parquet(files, cache_dir=str(out.parent / "cache"))
    columns = data.column_names
    data = data.map(encode, batched=True, num_proc=PROCESSES, remove_columns=columns, load_from_cache_file=False)
    out.mkdir()
    with (out / "train.bin").open("wb") as file:
        for batch in data.with_format("arrow").iter(1000):
            batch["ids"].combine_chunks().flatten().to_numpy().astype(np.uint16).tofile(file)


def bertgpt(files: list[str], tokenizer: Path, out: Path) -> list[str]:
    """This project's command line."""
    argv = [
        sys.executable,
        "-m",
        "bertgpt",
        "shard",
        *files,
        "--tokenizer",
        str(tokenizer),
        "--out",
        str(out),
        "--quiet",
    ]
    return [*argv, "--shard-tokens", str(SHARD), "--overwrite"]


PEERS = {"tiktoken pool": tiktoken_pool, "datasets.map": datasets_map}
RUNS = ["bertgpt", *PEERS]


# ------------------------------------------------------------------------------------------------- measurement


def clear(work: Path) -> None:
    """Take away what the run before has left, and wait for the disk: neither is part of any run's time."""
    shutil.rmtree(work / "out", ignore_errors=True)
    for left in (work / "cache").rglob("cache-*.arrow"):  # of an earlier `map`: a gigabyte each that fills the memory
        left.unlink()
    os.sync()


def started(name: str, files: list[str], tokenizer: Path, work: Path) -> subprocess.Popen[bytes]:
    """One run in a process of its own."""
    out = work / "out"
    job = [sys.executable, __file__, "--job", json.dumps([name, files, str(tokenizer), str(out)])]
    argv = bertgpt(files, tokenizer, out) if name == "bertgpt" else job
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def seconds_of(*run: Any) -> float:
    """How long a run takes."""
    clear(run[-1])
    start = time.perf_counter()
    if started(*run).wait():
        raise SystemExit(f"{run[0]} failed")
    return time.perf_counter() - start


def peak_memory(*run: Any) -> float:
    """The most megabytes that a run and all its processes hold together, pages that they share counted once."""
    clear(run[-1])
    child, most = started(*run), 0
    while child.poll() is None:
        held = 0
        with contextlib.suppress(psutil.Error):
            tree = psutil.Process(child.pid)
            for process in [tree, *tree.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    held += process.memory_full_info().pss
        most = max(most, held)
        time.sleep(0.05)
    return most / 1e6


def compare(title: str, files: list[str], tokenizer: Path, names: list[str], rounds: int, work: Path) -> None:
    """Runs in turn, and their medians."""
    console = Console()
    size, tokens = facts(files, tokenizer, work)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    memory = {name: peak_memory(name, files, tokenizer, work) for name in names}  # and files are in Arrow form then
    for _ in range(rounds):
        for name in names:
            seconds[name].append(seconds_of(name, files, tokenizer, work))
    console.heading(f"{title}: {size / 1e6:.1f} MB of text, {tokens / 1e6:.1f} M tokens")
    ours = statistics.median(seconds["bertgpt"])
    rows = []
    for name in names:
        took = statistics.median(seconds[name])
        spread = f"{min(seconds[name]):.2f}-{max(seconds[name]):.2f} ({len(seconds[name])})"
        peak = f"{memory[name]:.0f} MB"
        speed = [f"{size / took / 1e6:.1f}", f"{tokens / took / 1e6:.2f}"]
        rows.append([name, f"{took:.2f} s", spread, *speed, peak, f"{took / ours:.2f}"])
    console.table(["", "median", "range (runs)", "MB/s", "M tokens/s", "peak memory", "ratio"], rows)
    console.text()
    sys.stdout.flush()


def facts(files: list[str], tokenizer: Path, work: Path) -> tuple[int, int]:
    """Bytes and tokens, by our own manifest."""
    shutil.rmtree(work / "out", ignore_errors=True)
    subprocess.run(bertgpt(files, tokenizer, work / "out"), check=True, stdout=subprocess.DEVNULL)
    counts = json.loads((work / "out" / "manifest.json").read_text())["counts"]
    return counts["bytes"], counts["tokens"]


def corpus(data: Path, work: Path, megabytes: int) -> list[str]:
    """Parquet files of distinct text: the real ones, and tinyworld up to the wanted size."""
    import pyarrow as pa
    import pyarrow.json as pj
    import pyarrow.parquet as pq

    from bertgpt.tinyworld import World

    files = [str(path) for path in sorted((data / "fineweb-edu").glob("*.parquet"))]
    size = sum(pq.read_table(file, columns=["text"]).nbytes for file in files)
    for path in (data / "enwiki").glob("*.jsonl.zst"):
        stream = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
        table = pj.read_json(stream, pj.ReadOptions(block_size=1 << 26)).select(["text"])
        size += table.nbytes
        files.append(str(work / "enwiki.parquet"))
        pq.write_table(table, files[-1], row_group_size=5000)
    documents = World(99).documents()
    while size < megabytes * 1e6:
        texts = [next(documents).text for _ in range(100_000)]
        size += sum(map(len, texts))
        files.append(str(work / f"tinyworld-{len(files)}.parquet"))
        pq.write_table(pa.table({"text": texts}), files[-1], row_group_size=10_000)
    return files


def main() -> None:
    """Make the corpora, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("BERTGPT_TEST_DATA"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["large", "sample", "wordpiece"])
    parser.add_argument("--megabytes", type=int, default=520)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        name, files, tokenizer, out = json.loads(options.job)
        PEERS[name](files, Path(tokenizer), Path(out))
        return
    rounds = options.rounds
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        gpt2 = options.data / "tokenizers" / "gpt2"
        tokenizers = {name: work / name for name in ("gpt2", "bert-base-uncased")}
        for name, path in tokenizers.items():  # one folder that all of them can read
            load_tokenizer(options.data / "tokenizers" / name).save(path)
        for name in ("vocab.bpe", "encoder.json"):
            shutil.copy(gpt2 / name, tokenizers["gpt2"])
        sample = [str(path) for path in sorted((options.data / "fineweb-edu").glob("*.parquet"))]
        if options.only in (None, "sample"):
            compare("GPT-2, the FineWeb-Edu sample", sample, tokenizers["gpt2"], RUNS, rounds, work)
        if options.only == "sample":
            return
        large = corpus(options.data, work, options.megabytes)
        if options.only in (None, "large"):
            compare("GPT-2, the large corpus", large, tokenizers["gpt2"], RUNS, rounds, work)
        if options.only in (None, "wordpiece"):
            names = ["bertgpt", "datasets.map"]
            compare("WordPiece, the large corpus", large, tokenizers["bert-base-uncased"], names, rounds, work)


if __name__ == "__main__":
    main()
