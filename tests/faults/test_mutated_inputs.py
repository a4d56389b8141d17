"""Damaged and hostile inputs: mutations of valid files of every format, read by the commands that take them.

A command may succeed or refuse with a designed error. It never shows a traceback, reports a bug, runs for long, needs
much memory or dies of a signal.
"""

import json
import os
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

import bertgpt
from tests.fixtures.finetuning import labeled_texts
from tests.fixtures.forkserver import ForkServer

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(1800)]
MUTATIONS = int(os.environ.get("BERTGPT_MUTATIONS", "100"))  # of each case; there are 20 cases
SECONDS, MEMORY = 20, 2_000_000_000
LIMITS = f"""
import resource
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS + 1}))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {MEMORY}, used + {MEMORY}))
"""
CPU = ["--precision", "fp32", "--device", "cpu"]
TRAIN = ["--train-tokenizer", "bpe", "--vocab-size", "300", "--out", "out", "--on-error", "skip"]
PRETRAIN = [
    "--preset",
    "test-gpt",
    "--seq-len",
    "16",
    "--tokens-per-step",
    "64",
    "--max-steps",
    "3",
    "--out",
    "run",
    *CPU,
]
CASES: dict[str, tuple[str, list[str]]] = {  # the file that is mutated, and a command that reads it
    "txt": ("a.txt", ["shard", "a.txt", *TRAIN]),
    "txt.gz": ("a.txt.gz", ["shard", "a.txt.gz", *TRAIN]),
    "jsonl": ("a.jsonl", ["shard", "a.jsonl", *TRAIN]),
    "csv": ("labels.csv", ["shard", "labels.csv", *TRAIN]),
    "parquet": ("a.parquet", ["shard", "a.parquet", *TRAIN]),
    "arrow": ("a.arrow", ["shard", "a.arrow", *TRAIN]),
    "arrow stream": ("stream.arrow", ["shard", "stream.arrow", *TRAIN]),
    "tokenizer": ("shards/tokenizer/tokenizer.json",
                  ["tokenize", "a.jsonl", "--tokenizer", "shards/tokenizer", "--out", "out"]),
    "tokenized file": ("tokens/{first}", ["shard", "tokens", "--out", "out"]),
    "shard": ("shards/{first}", ["pretrain", "shards", *PRETRAIN, "--out", "run"]),
    "manifest": ("shards/manifest.json", ["inspect", "shards", "--doc", "1"]),
    "mask plan": ("masks/{first}", ["inspect", "masks", "--docs", "2"]),
    "metrics": ("run/metrics.jsonl", ["pretrain", "shards", *PRETRAIN, "--out", "run"]),
    "run config": ("run/config.yaml", ["report", "run", "--out", "page.html"]),
    "run.json": ("run/run.json", ["report", "run", "--out", "page.html"]),
    "weights": ("run/final/model.safetensors",
                ["generate", "--model", "run", "--max-new-tokens", "3", "--prompt", "a", *CPU]),
    "hf config": ("hf/config.json", ["import", "hf", "--out", "out"]),
    "hf weights": ("hf/model.safetensors", ["import", "hf", "--out", "out"]),
    "results": ("results/lm.json", ["report", "run", "--results", ".", "--out", "page.html"]),
    "params": ("params.yaml", ["generate", "--config", "params.yaml:generate", "--model", "run", *CPU]),
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid file of every kind."""
    import gzip

    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("valid")
    texts = [f"{text} {text} Then it was {i} again." for i, (text, _) in enumerate(labeled_texts(60))]
    (folder / "a.txt").write_text("\n\n".join(texts))
    (folder / "a.txt.gz").write_bytes(gzip.compress("\n\n".join(texts).encode()))
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "labels.csv").write_text("text,label\n" + "".join(f'"{text}",{i % 2}\n' for i, text in enumerate(texts)))
    table = pa.table({"text": texts, "more": pa.array(texts).dictionary_encode()})
    pq.write_table(table, folder / "a.parquet", row_group_size=20)
    for name, writer in (("a.arrow", pa.ipc.new_file), ("stream.arrow", pa.ipc.new_stream)):
        with writer(folder / name, table.schema) as out:
            out.write_table(table)
    shards, run = str(folder / "shards"), str(folder / "run")
    source, options = str(folder / "a.jsonl"), {"train_tokenizer": "bpe", "vocab_size": 300}
    bertgpt.tokenize(source, out=str(folder / "tokens"), **options)
    bertgpt.shard(source, out=shards, val_fraction=0.1, **options)
    bertgpt.mask(shards, seq_len=32, sentence_pairs="none", out=str(folder / "masks"))
    training = {"seq_len": 16, "tokens_per_step": 64, "max_steps": 3, "precision": "fp32", "device": "cpu"}
    bertgpt.pretrain(shards, preset="test-gpt", out=run, **training)
    bertgpt.export(run, out=str(folder / "hf"))
    bertgpt.evaluate("lm", model=run, data=source, limit=8, out=str(folder / "results"))
    (folder / "params.yaml").write_text("generate:\n  prompt: [a, b]\n  max-new-tokens: 3\n  temperature: 0.5\n")
    return folder


def vouch(folder: Path, changed: Path) -> None:
    """Write the size and hash of a changed file to the manifest beside it, as an attacker would."""
    import hashlib

    manifest = changed.parent / "manifest.json"
    if not manifest.exists() or changed == manifest:
        return
    content = json.loads(manifest.read_text())
    for entry in content["files"]:
        if entry["path"] == changed.name:
            entry |= {"bytes": changed.stat().st_size, "sha256": hashlib.sha256(changed.read_bytes()).hexdigest()}
    manifest.write_text(json.dumps(content))


# ------------------------------------------------------------------------------------------------- mutations


def flip(draw: random.Random, data: bytearray) -> None:
    for _ in range(draw.randint(1, 8)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def number(draw: random.Random, data: bytearray) -> None:
    """Eight bytes become an extreme number."""
    at = draw.randrange(max(1, len(data) - 8)) & ~3
    value = draw.choice(
        [0, 1, 255, 1 << 15, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]
    )
    size = draw.choice([2, 4, 8])
    data[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def cut(draw: random.Random, data: bytearray) -> None:
    del data[draw.randrange(len(data)) :]


def drop(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data))
    del data[at : at + draw.randint(1, 200)]


def repeat(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data))
    data[at:at] = data[at : at + draw.randint(1, 100)] * draw.randint(1, 50)


def insert(draw: random.Random, data: bytearray) -> None:
    hostile = [
        b"\0",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"nan",
        b"1e999",
        b"-1",
        b"[" * 100_000,
        b'{"a":' * 5000,
        b"\x1b]0;x\x07",
    ]
    at = draw.randrange(len(data) + 1)
    data[at:at] = draw.choice(hostile)


def digits(draw: random.Random, data: bytearray) -> None:
    """A number in text becomes another."""
    starts = [i for i, byte in enumerate(data) if 48 <= byte < 58]
    if starts:
        data[(at := draw.choice(starts)) : at + 1] = draw.choice(
            [b"-1", b"268435456", b"1e400", b'"x"', b"null", b"[]", b"{}"]
        )


Mutation = Callable[[random.Random, bytearray], None]
KINDS: tuple[Mutation, ...] = (flip, number, cut, drop, repeat, insert, digits)


def mutated(data: bytes, seed: int) -> bytes:
    """One or two mutations of a file, and sometimes nothing of it."""
    draw, content = random.Random(seed), bytearray(data)
    for _ in range(draw.choice([1, 1, 2])):
        if content:
            draw.choice(KINDS)(draw, content)
    return b"" if seed % 50 == 49 else bytes(content)


# ----------------------------------------------------------------------------------------------------- tests


def problem_of(code: int, out: str, err: str) -> str | None:
    if code < 0:
        return f"signal {-code}"
    if "Traceback" in err or "BG101" in err or code not in (0, 2, 3, 4, 5):
        return f"exit code {code}: {err[-300:]}"
    return None


@pytest.mark.parametrize("name", CASES)
def test_mutated_input(name: str, inputs: Path, forkserver: ForkServer, tmp_path: Path) -> None:
    pattern, argv = CASES[name]
    first = next((path.name for path in sorted((inputs / pattern).parent.glob("*.arrow"))), "")
    file = pattern.format(first=first)
    valid, problems = (inputs / file).read_bytes(), []
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    for number in range(MUTATIONS):
        cwd = tmp_path / "cwd"
        shutil.copytree(inputs, cwd)
        (cwd / file).write_bytes(mutated(valid, zlib.crc32(f"{name} {number}".encode())))
        vouch(cwd, cwd / file)
        if problem := problem_of(*forkserver.run(argv, first=LIMITS, cwd=cwd, env=env)):
            problems.append(f"{name}, mutation {number}: {problem}")
        shutil.rmtree(cwd)
    assert not problems, "\n".join(problems)
