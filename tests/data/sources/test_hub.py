"""Datasets on the Hub, read with the real client from a local server."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertgpt.config.corpora import CORPORA
from bertgpt.data.format import TokenFile, read_manifest
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.tinyworld import World
from tests.conftest import Outcome
from tests.fixtures.hub_server import Dataset, Hub, serve_hub

NO_WAITING = "import time; time.sleep = lambda seconds: None"  # between the attempts of a request


class Shard(Protocol):
    def __call__(self, *argv: str, **env: str | None) -> Outcome: ...


def parquet(texts: list[str], rows: int = 100, **columns: list[Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": texts, **columns}), sink, row_group_size=rows)
    return sink.getvalue().to_pybytes()


@cache
def documents(first: int, count: int) -> list[str]:
    return [document.text for document in World(3).documents(first, first + count)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bertgpt.data.tokenizers.train import train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer("bpe", 500, iter(documents(0, 200))).save(folder)
    return folder


@cache
def train_files() -> dict[str, bytes]:
    """Four parquet files of 300 documents."""
    return {f"data/train-{i:05}-of-00004.parquet": parquet(documents(300 * i, 300)) for i in range(4)}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as hub:
        hub.datasets["some/where"] = Dataset(train_files().copy())
        yield hub


@pytest.fixture
def shard(hub: Hub, tmp_path: Path, tokenizer: Path, process: Any) -> Shard:
    """`bertgpt shard` with the local server as the Hub."""

    def run(*argv: str, **env: str | None) -> Outcome:
        given = () if "--tokenizer" in argv or "--list" in argv else ("--tokenizer", str(tokenizer))
        out = () if "--out" in argv else ("--out", str(tmp_path / "out"))
        done: Outcome = process(
            "shard", *argv, *given, *out, env=hub.environment(tmp_path) | env, cwd=tmp_path, first=NO_WAITING
        )
        return done

    return run


def decoded_documents(folder: Path, split: str) -> list[str]:
    """The documents of a split, decoded."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    files = [file["path"] for file in read_manifest(folder)["files"] if file["split"] == split]
    shards = [TokenFile(folder / name) for name in files]
    return [tokenizer.decode(shard.row(i)[:-1].tolist()) for shard in shards for i in range(len(shard))]


def hashes(folder: Path) -> list[str]:
    return [file["sha256"] for file in read_manifest(folder)["files"]]


# ------------------------------------------------------------------------------------------------ reading


def test_hub_dataset_gives_the_documents_of_local_files(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    done = shard("hf:some/where", "--seed", "1")
    assert done.code == 0, done.err
    assert "plan: 4 files" in done.err
    (tmp_path / "local.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents(0, 1200)))
    assert shard("local.jsonl", "--seed", "1", "--out", "local").code == 0
    assert sorted(decoded_documents(tmp_path / "out", "train")) == sorted(
        decoded_documents(tmp_path / "local", "train")
    )
    manifest = read_manifest(tmp_path / "out")
    assert next(source["revision"] for source in manifest["sources"]).startswith(f"some/where@{'a' * 40}/data/train-0")
    assert [source["documents"] for source in manifest["sources"]] == [300] * 4
    assert sum(source["tokens"] for source in manifest["sources"]) == manifest["counts"]["tokens"]
    assert not list((tmp_path / "hf").rglob("*.parquet"))  # nothing is downloaded to disk


def test_moved_branch_is_another_corpus(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    """A branch is resolved to a commit: after it has moved, the output has different inputs."""
    assert shard("hf:some/where").code == 0
    hub.datasets["some/where"].commit = "b" * 40
    moved = shard("hf:some/where")
    assert (moved.code, "error[BG213]" in moved.err) == (2, True)
    assert "sources.0.revision was some/where@aaaaaaaaaaaa" in moved.err
    assert shard(f"hf:some/where@{'c' * 40}", "--out", "other").code == 2


def test_only_the_text_column_is_fetched(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 10_000), np.uint8)
    heavy = parquet(documents(0, 300), embedding=[row.tobytes() for row in noise])
    hub.datasets["some/heavy"] = Dataset({"data/train.parquet": heavy})
    assert shard("hf:some/heavy").code == 0
    assert hub.sent < len(heavy) // 5, hub.sent


def test_official_splits_are_kept(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    train, validation = documents(0, 400), documents(400, 100)
    leak = documents(500, 10)  # in both splits
    files = {"data/train.parquet": parquet(train + leak), "data/validation.parquet": parquet(leak + validation)}
    hub.datasets["some/split"] = Dataset(files)
    assert shard("hf:some/split", "--val-fraction", "0.3", "--test-fraction", "0.1").code == 0
    out = tmp_path / "out"
    assert sorted(decoded_documents(out, "val")) == sorted(leak + validation)  # duplicates stay in the validation split
    assert set(decoded_documents(out, "train")) | set(decoded_documents(out, "test")) == set(train)
    assert 20 <= len(decoded_documents(out, "test")) <= 70  # there is no official test split, so it is made by hash
    assert shard("hf:some/split", "--split", "validation", "--out", "one").code == 0
    assert len(decoded_documents(tmp_path / "one", "train")) > 100
    wrong = shard("hf:some/split", "--split", "validatoin", "--out", "none")
    assert (wrong.code, "did you mean validation" in wrong.err) == (2, True)


def test_official_splits_of_tokenized_files(
    shard: Shard, hub: Hub, tmp_path: Path, process: Any, tokenizer: Path
) -> None:
    files = {"data/train.parquet": parquet(documents(0, 200)), "data/validation.parquet": parquet(documents(200, 50))}
    hub.datasets["some/split"] = Dataset(files)
    env = hub.environment(tmp_path)
    done = process("tokenize", "hf:some/split", "--tokenizer", str(tokenizer), "--out", "tokens", env=env, cwd=tmp_path)
    assert done.code == 0, done.err
    assert process("shard", "tokens", "--out", "staged", env=env, cwd=tmp_path).code == 0
    assert shard("hf:some/split", "--out", "direct").code == 0
    assert hashes(tmp_path / "staged") == hashes(tmp_path / "direct")


def test_wikitext_lines_are_joined_to_articles(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    def lines(number: int) -> list[str]:
        return ["", f" = Article {number} = \n", "", f" Text {number} . \n", f" = = Part {number} = = \n", " More . \n"]

    def file(first: int, count: int) -> bytes:
        return parquet([line for number in range(first, first + count) for line in lines(number)], rows=7)

    corpus = CORPORA["wikitext2"]
    names = {split: pattern.replace("*", "00000-of-00001") for split, pattern in corpus.files.items()}
    files = {names["train"]: file(0, 30), names["val"]: file(30, 5), names["test"]: file(35, 5)}
    hub.datasets[corpus.repository] = Dataset(files, corpus.revision)
    done = shard("wikitext2", "--out", "out")
    assert done.code == 0, done.err
    assert sorted(decoded_documents(tmp_path / "out", "val")) == sorted("".join(lines(i)[1:]) for i in range(30, 35))
    assert len(decoded_documents(tmp_path / "out", "train")) == 30
    assert len(decoded_documents(tmp_path / "out", "test")) == 5


def test_bookcorpus_sentences_are_joined(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    corpus = CORPORA["bookcorpus"]
    sentences = [f"sentence {i} ." for i in range(corpus.rows_per_document * 3 + 5)]
    files = {"plain_text/train/0000.parquet": parquet(sentences)}
    hub.datasets[corpus.repository] = Dataset(files)
    assert shard("bookcorpus", "--val-fraction", "0").code == 0
    joined = decoded_documents(tmp_path / "out", "train")
    assert sorted(map(len, (text.split("\n") for text in joined))) == [5] + [corpus.rows_per_document] * 3
    assert "\n".join(sentences[: corpus.rows_per_document]) in joined


def test_other_formats(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    """jsonl is read by byte ranges; a JSON array, which only `datasets` can read, is streamed."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents(0, 50)).encode()
    array = json.dumps([{"text": text} for text in documents(0, 50)]).encode()
    for name, files in {"lines": {"train.jsonl": lines}, "array": {"train.json": array}}.items():
        hub.datasets[f"some/{name}"] = Dataset(files)
        done = shard(f"hf:some/{name}", "--val-fraction", "0", "--out", name)
        assert done.code == 0, done.err
        assert sorted(decoded_documents(tmp_path / name, "train")) == sorted(documents(0, 50))


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("fault", ["429", "500", "cut", "short"])
def test_transient_faults_are_retried(fault: str, shard: Shard, hub: Hub, tmp_path: Path) -> None:
    """No byte of a broken response is taken for the file."""
    assert shard("hf:some/where", "--out", "undisturbed").code == 0
    hub.faults = [fault, fault, ""] * 2  # the file listing is cached: these faults hit requests for content
    assert shard("hf:some/where", "--out", "faulty").code == 0
    assert hub.requests[fault] >= 2
    assert hashes(tmp_path / "undisturbed") == hashes(tmp_path / "faulty")


def test_file_listing_is_retried(shard: Shard, hub: Hub) -> None:
    corpus = CORPORA["agnews"]
    files = {"data/train-0.parquet": parquet(documents(0, 50)), "data/test-0.parquet": parquet(documents(50, 9))}
    hub.datasets[corpus.repository] = Dataset(files, corpus.revision)
    hub.faults = ["503"]
    assert shard("agnews").code == 0
    assert hub.requests["503"] == 1


def test_file_of_another_size_than_listed(shard: Shard, hub: Hub) -> None:
    assert shard("hf:some/where", "--dry-run").code == 0
    hub.faults = ["other"]
    done = shard("hf:some/where")
    assert (done.code, "error[BG305]" in done.err) == (3, True)
    assert "12,345" not in done.err


def test_permanent_refusal(shard: Shard, hub: Hub) -> None:
    hub.datasets["some/where"].denied_status = 451
    done = shard("hf:some/where")
    assert (done.code, "HTTP status 451" in done.err) == (4, True), done.err


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("hf:some/nowhere", 2, "no such dataset on the Hub: some/nowhere"),
        ("hf:some/where@nosuch", 2, "no such revision of some/where: nosuch"),
        ("hf:not a name", 2, "no such dataset on the Hub: not a name"),
        ("finewebb", 2, "did you mean fineweb"),
    ],
)
def test_missing_datasets_and_revisions(source: str, code: int, message: str, shard: Shard) -> None:
    done = shard(source)
    assert (done.code, message in done.err) == (code, True), done.err
    assert "Traceback" not in done.err


def test_no_such_subset(shard: Shard) -> None:
    done = shard("fineweb", "--subset", "sample-1OBT")
    assert (done.code, "did you mean sample-10BT" in done.err) == (2, True)


def test_wrong_subset_is_not_retried(shard: Shard, hub: Hub) -> None:
    """`datasets` finds out: a name is wrong, not the network."""
    done = shard("hf:some/where", "--subset", "nosuch")
    assert (done.code, "error[BG211]" in done.err, "--subset" in done.err) == (2, True, True), done.err


@pytest.mark.parametrize("status", [401, 403])
def test_hf_token_is_used_and_never_shown(status: int, shard: Shard, hub: Hub, tmp_path: Path) -> None:
    hub.datasets["some/where"].denied_status = status
    without = shard("hf:some/where")
    assert (without.code, "error[BG409]" in without.err, "HF_TOKEN" in without.err) == (4, True, True)
    secret = "hf_thisisnotatokenbutlookslikeone"
    hub.faults = ["500"]
    done = shard("hf:some/where", HF_TOKEN=secret, BERTGPT_DEBUG="1")
    assert done.code == 0, done.err
    assert hub.tokens == {f"Bearer {secret}"}
    assert secret not in done.out + done.err
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if secret.encode() in path.read_bytes()]


def test_offline(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    """HF_HUB_OFFLINE: an immediate error without a cached copy, otherwise everything is read from the cache."""
    start = time.monotonic()
    done = shard("hf:some/where", HF_HUB_OFFLINE="1")
    assert time.monotonic() - start < 10
    assert (done.code, "error[BG407]" in done.err) == (4, True), done.err
    assert "cached revisions" in done.err
    assert "local files" in done.err
    assert shard("hf:some/where", "--out", "online").code == 0
    incomplete = shard("hf:some/where", "--out", "offline", HF_HUB_OFFLINE="1")
    assert incomplete.code == 4  # the listing is cached, but the files are not
    code = "from huggingface_hub import snapshot_download as get; get('some/where', repo_type='dataset')"
    env = {k: v for k, v in hub.environment(tmp_path).items() if v is not None}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)
    served = hub.requests["range"]
    done = shard("hf:some/where", "--out", "offline", HF_HUB_OFFLINE="1")
    assert done.code == 0, done.err
    assert hub.requests["range"] == served
    assert hashes(tmp_path / "offline") == hashes(tmp_path / "online")


def test_read_only_hub_cache(shard: Shard) -> None:
    done = shard("hf:some/where", HF_HOME="/proc/nowhere")
    assert done.code in (0, 4)
    assert "Traceback" not in done.err
    assert done.code == 0 or "HF_HOME" in done.err


# --------------------------------------------------------------------------------------------------------- URLs


def test_urls(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    texts = documents(0, 50)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    compressed = pa.compress(lines, codec="gzip", asbytes=True)
    files = {
        "a.parquet": parquet(texts),
        "a.jsonl": lines,
        "a.jsonl.gz": compressed,
        "a.txt": "\n\n".join(texts).encode(),
    }
    hub.datasets["files"] = Dataset(files)
    for name in files:
        hub.faults = ["cut"]
        done = shard(f"{hub.url}/files/{name}", "--val-fraction", "0", "--out", name)
        assert done.code == 0, done.err
        assert sorted(decoded_documents(tmp_path / name, "train")) == sorted(texts)
        assert "etag" in read_manifest(tmp_path / name)["sources"][0]["revision"].lower()
    assert shard(f"{hub.url}/files/a.jsonl?version=1", "--val-fraction", "0", "--out", "query").code == 0
    assert len(decoded_documents(tmp_path / "query", "train")) == len(texts)
    done = shard(f"{hub.url}/files/none.parquet", "--out", "none")
    assert (done.code, "no such file" in done.err) == (2, True), done.err
    assert shard("nosuch://files/a.txt", "--out", "none").code == 2


# ------------------------------------------------------------------------------------------------ named corpora


def test_named_corpus_needs_no_options(hub: Hub, tmp_path: Path, tokenizer: Path, process: Any) -> None:
    """Except for the tokenizer, since GPT-2's needs a network."""
    corpus = CORPORA["fineweb"]
    files = {f"sample/10BT/{i:03}_00000.parquet": parquet(documents(100 * i, 100)) for i in range(14)}
    files |= {"sample/100BT/000_00000.parquet": parquet(documents(0, 30)), "README.md": b"# FineWeb-Edu"}
    files |= {"data/CC-MAIN-2024-10/train-0.parquet": parquet(documents(0, 20))}
    hub.datasets[corpus.repository] = Dataset(files, corpus.revision)

    def shard(*argv: str) -> Outcome:
        env = hub.environment(tmp_path)
        done: Outcome = process("shard", "fineweb", *argv, "--tokenizer", str(tokenizer), env=env, cwd=tmp_path)
        assert done.code == 0, done.err
        return done

    plan = json.loads(shard("--dry-run", "--json").out)["result"]
    assert (plan["files"], plan["path"]) == (14, "data/shards/fineweb")
    assert not (tmp_path / "data").exists()
    shown = json.loads(shard("--show-config", "--json").out)["result"]
    assert shown["shard_tokens"] == {"value": 10_000_000, "source": "preset fineweb"}
    shard()
    assert read_manifest(tmp_path / "data" / "shards" / "fineweb")["counts"]["documents"] == 1400
    for subset, count in {"sample-100BT": 30, "CC-MAIN-2024-10": 20}.items():
        shard("--subset", subset, "--out", subset)
        assert read_manifest(tmp_path / subset)["counts"]["documents"] == count


def test_catalog_entries_are_complete() -> None:
    for name, corpus in CORPORA.items():
        assert corpus.description, name
        assert corpus.license, name
        assert corpus.files["train"], name
        assert set(corpus.files) <= {"train", "val", "test"}, name
        assert bool(corpus.repository) == bool(corpus.revision), name
