"""A repository of 200 MB with FineWeb's layout: memory and disk that a run needs, and the cost of kills."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertgpt.data.format import read_manifest
from bertgpt.tinyworld import World
from tests.fixtures.hub_server import Dataset, Hub, serve_hub

FILES, ROWS, STORIES = 6, 7000, 15


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """Pages of fifteen stories each, in row groups of a thousand, with the other columns of a crawl."""
    stories = World(12).documents()
    files = {}
    for i in range(FILES):
        texts = ["\n\n".join(next(stories).text for _ in range(STORIES)) for _ in range(ROWS)]
        table = pa.table({"text": texts, "id": [f"<urn:uuid:{i}-{j}>" for j in range(ROWS)], "score": [3.5] * ROWS})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=1000)
        files[f"sample/10BT/{i:03}_00000.parquet"] = sink.getvalue().to_pybytes()
    with serve_hub() as hub:
        hub.datasets["some/pages"] = Dataset(files)
        yield hub


def command(out: Path, tokenizer: Path) -> list[str]:
    argv = [sys.executable, "-m", "bertgpt", "shard", "hf:some/pages", "--tokenizer", str(tokenizer), "--out", str(out)]
    return [*argv, "--shard-tokens", "5M", "--workers", "2"]


def hashes(out: Path) -> dict[str, str]:
    files = [path for path in out.rglob("*") if path.is_file() and path.name != "run.json"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def size_of(folder: Path) -> int:
    """Bytes on disk below a folder; a hard-linked file counts once."""
    seen = {}
    for path in folder.rglob("*"):
        with suppress(OSError):
            status = path.stat()
            seen[status.st_ino] = status.st_size if path.is_file() else 0
    return sum(seen.values())


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_memory_disk_and_kills(hub: Hub, tmp_path: Path) -> None:
    from bertgpt.data.tokenizers.train import train_tokenizer

    train_tokenizer("bpe", 8192, (d.text for d in World(12).documents(0, 3000))).save(tmp_path / "tokenizer")
    env = {k: v for k, v in (os.environ | hub.environment(tmp_path / "home")).items() if v is not None}
    out, first = tmp_path / "undisturbed" / "out", hub.requests["range"]
    running = subprocess.Popen(command(out, tmp_path / "tokenizer"), env=env, stderr=subprocess.PIPE, text=True)
    memory, disk = {}, 0
    while running.poll() is None:
        with suppress(psutil.Error):
            for process in psutil.Process(running.pid).children(recursive=True):
                memory[process.pid] = max(memory.get(process.pid, 0), process.memory_full_info().uss)
        disk = max(disk, size_of(tmp_path))
        time.sleep(0.05)
    assert running.returncode == 0, running.communicate()[1]
    undisturbed = hub.requests["range"]
    manifest = read_manifest(out)
    text, output = manifest["counts"]["bytes"], size_of(out)
    parts = 2 * manifest["counts"]["tokens"] + 60 * manifest["counts"]["documents"]
    excess = disk - output - parts
    print(f"{text / 1e6:.0f} MB of text; {max(memory.values()) / 1e6:.0f} MB a worker; {excess / 1e6:.0f} MB excess")
    assert text > 200e6
    assert max(memory.values()) < 1e9
    assert excess < 100e6

    rng, killed, out = random.Random(5), 0, tmp_path / "killed" / "out"
    while not out.exists():
        running = subprocess.Popen(command(out, tmp_path / "tokenizer"), env=env, stderr=subprocess.PIPE, text=True)
        kill_at = hub.requests["range"] + rng.randrange(1, 9) if killed < 10 else 10**9
        while running.poll() is None and hub.requests["range"] < kill_at:
            os.sched_yield()
        if running.poll() is None:
            running.send_signal(signal.SIGKILL)
        error = running.communicate()[1]
        killed += running.returncode == -signal.SIGKILL
        assert running.returncode in (0, -signal.SIGKILL), error
    requests = hub.requests["range"]
    print(f"killed {killed} times; {requests - undisturbed} requests, {undisturbed - first} without kills")
    assert killed == 10
    assert (
        requests - undisturbed <= undisturbed - first + 3 * 2 * killed
    )  # each kill costs at most what its two workers were reading
    assert hashes(out) == hashes(tmp_path / "undisturbed" / "out")
