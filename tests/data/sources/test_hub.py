"""Datasets on the hub, read by the real client from a small hub on loopback."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
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


class Shard(Protocol):
    def __call__(self, *argv: str, **env: str | None) -> Outcome: ...


def parquet(texts: list[str], rows: int = 100, **columns: list[Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": texts, **columns}), sink, row_group_size=rows)
    return sink.getvalue().to_pybytes()


def documents(first: int, count: int) -> list[str]:
    return [document.text for document in World(3).documents(first, first + count)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bertgpt.data.tokenizers.train import train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer("bpe", 500, iter(documents(0, 200))).save(folder)
    return folder


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as hub:
        files = {f"data/train-{i:05}-of-00004.parquet": parquet(documents(300 * i, 300)) for i in range(4)}
        hub.datasets["some/where"] = Dataset(files)
        yield hub


@pytest.fixture
def shard(hub: Hub, tmp_path: Path, tokenizer: Path, process: Any) -> Shard:
    """`bertgpt shard`, which takes the small hub for the real one."""

    def running(*argv: str, **env: str | None) -> Outcome:
        given = () if "--tokenizer" in argv or "--list" in argv else ("--tokenizer", str(tokenizer))
        where = () if "--out" in argv else ("--out", str(tmp_path / "out"))
        done: Outcome = process("shard", *argv, *given, *where, env=hub.environment(tmp_path) | env, cwd=tmp_path)
        return done

    return running


def texts_of(folder: Path, split: str) -> list[str]:
    """The documents of a split, decoded."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    files = [file["path"] for file in read_manifest(folder)["files"] if file["split"] == split]
    shards = [TokenFile(folder / name) for name in files]
    return [tokenizer.decode(shard.row(i)[:-1].tolist()) for shard in shards for i in range(len(shard))]


def hashes(folder: Path) -> list[str]:
    return [file["sha256"] for file in read_manifest(folder)["files"]]


# ------------------------------------------------------------------------------------------------ what is read


def test_a_dataset_becomes_the_shards_of_its_texts(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    done = shard("hf:some/where", "--seed", "1")
    assert done.code == 0, done.err
    assert "plan: 4 files" in done.err
    (tmp_path / "local.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents(0, 1200)))
    assert shard("local.jsonl", "--seed", "1", "--out", "local").code == 0
    assert sorted(texts_of(tmp_path / "out", "train")) == sorted(texts_of(tmp_path / "local", "train"))
    manifest = read_manifest(tmp_path / "out")
    assert next(source["revision"] for source in manifest["sources"]).startswith(f"some/where@{'a' * 40}/data/train-0")
    assert [source["documents"] for source in manifest["sources"]] == [300] * 4
    assert sum(source["tokens"] for source in manifest["sources"]) == manifest["counts"]["tokens"]
    assert not list((tmp_path / "hf").rglob("*.parquet"))  # nothing of the set was put on the disk


def test_what_a_revision_means_is_looked_up_once(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    """A branch that moves later is another corpus: what is there is not taken for it."""
    assert shard("hf:some/where").code == 0
    hub.datasets["some/where"].commit = "b" * 40
    moved = shard("hf:some/where")
    assert (moved.code, "error[BG213]" in moved.err) == (2, True)
    assert "a" * 12 in moved.err or "revision" in moved.err
    assert shard(f"hf:some/where@{'c' * 40}", "--out", "other").code == 2


def test_only_the_column_of_the_texts_is_fetched(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 10_000), np.uint8)
    heavy = parquet(documents(0, 300), embedding=[row.tobytes() for row in noise])
    hub.datasets["some/heavy"] = Dataset({"data/train.parquet": heavy})
    assert shard("hf:some/heavy").code == 0
    assert hub.sent < len(heavy) // 5, hub.sent


def test_official_splits_are_kept(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    train, validation = documents(0, 400), documents(400, 100)
    leak = documents(500, 10)  # stands in both
    files = {"data/train.parquet": parquet(train + leak), "data/validation.parquet": parquet(leak + validation)}
    hub.datasets["some/split"] = Dataset(files)
    assert shard("hf:some/split", "--val-fraction", "0.3", "--test-fraction", "0.1").code == 0
    out = tmp_path / "out"
    assert sorted(texts_of(out, "val")) == sorted(leak + validation)  # held out wins over trained on
    assert set(texts_of(out, "train")) | set(texts_of(out, "test")) == set(train)
    assert 20 <= len(texts_of(out, "test")) <= 70  # none is given, so it is made by hash
    assert shard("hf:some/split", "--split", "validation", "--out", "one").code == 0
    assert len(texts_of(tmp_path / "one", "train")) > 100
    wrong = shard("hf:some/split", "--split", "validatoin", "--out", "none")
    assert (wrong.code, "did you mean validation" in wrong.err) == (2, True)


def test_splits_go_with_token_parts(shard: Shard, hub: Hub, tmp_path: Path, process: Any, tokenizer: Path) -> None:
    files = {"data/train.parquet": parquet(documents(0, 200)), "data/validation.parquet": parquet(documents(200, 50))}
    hub.datasets["some/split"] = Dataset(files)
    env = hub.environment(tmp_path)
    done = process("tokenize", "hf:some/split", "--tokenizer", str(tokenizer), "--out", "tokens", env=env, cwd=tmp_path)
    assert done.code == 0, done.err
    assert process("shard", "tokens", "--out", "staged", env=env, cwd=tmp_path).code == 0
    assert shard("hf:some/split", "--out", "straight").code == 0
    assert hashes(tmp_path / "staged") == hashes(tmp_path / "straight")


def test_articles_are_put_together_from_their_lines(shard: Shard, hub: Hub, tmp_path: Path) -> None:
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
    assert sorted(texts_of(tmp_path / "out", "val")) == sorted("".join(lines(i)[1:]) for i in range(30, 35))
    assert len(texts_of(tmp_path / "out", "train")) == 30
    assert len(texts_of(tmp_path / "out", "test")) == 5


def test_sentences_are_put_together(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    corpus = CORPORA["bookcorpus"]
    sentences = [f"sentence {i} ." for i in range(corpus.rows_per_document * 3 + 5)]
    files = {"plain_text/train/0000.parquet": parquet(sentences)}
    hub.datasets[corpus.repository] = Dataset(files)
    assert shard("bookcorpus", "--val-fraction", "0").code == 0
    found = texts_of(tmp_path / "out", "train")
    assert sorted(map(len, (text.split("\n") for text in found))) == [5] + [corpus.rows_per_document] * 3
    assert "\n".join(sentences[: corpus.rows_per_document]) in found


def test_other_formats(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    """Lines are read by us in pieces; what only `datasets` can read, through it."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents(0, 50)).encode()
    array = json.dumps([{"text": text} for text in documents(0, 50)]).encode()
    for name, files in {"lines": {"train.jsonl": lines}, "array": {"train.json": array}}.items():
        hub.datasets[f"some/{name}"] = Dataset(files)
        done = shard(f"hf:some/{name}", "--val-fraction", "0", "--out", name)
        assert done.code == 0, done.err
        assert sorted(texts_of(tmp_path / name, "train")) == sorted(documents(0, 50))


# --------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("fault", ["429", "500", "cut", "short"])
def test_what_goes_wrong_once_is_tried_again(fault: str, shard: Shard, hub: Hub, tmp_path: Path) -> None:
    """F23: nothing of a broken answer is taken for the file."""
    assert shard("hf:some/where", "--out", "calm").code == 0
    hub.faults = [fault, fault, ""] * 2  # the list of files is remembered: these are answers with content
    assert shard("hf:some/where", "--out", "stormy").code == 0
    assert hub.requests[fault] >= 2
    assert hashes(tmp_path / "calm") == hashes(tmp_path / "stormy")


def test_a_busy_hub_is_asked_again_for_its_files(shard: Shard, hub: Hub) -> None:
    corpus = CORPORA["agnews"]
    files = {"data/train-0.parquet": parquet(documents(0, 50)), "data/test-0.parquet": parquet(documents(50, 9))}
    hub.datasets[corpus.repository] = Dataset(files, corpus.revision)
    hub.faults = ["503"]
    assert shard("agnews").code == 0
    assert hub.requests["503"] == 1


def test_a_file_that_has_become_another(shard: Shard, hub: Hub) -> None:
    assert shard("hf:some/where", "--dry-run").code == 0
    hub.faults = ["other"]
    done = shard("hf:some/where")
    assert (done.code, "error[BG305]" in done.err) == (3, True)
    assert "12,345" not in done.err


def test_a_hub_that_refuses_for_good(shard: Shard, hub: Hub) -> None:
    hub.datasets["some/where"].denied_status = 451
    done = shard("hf:some/where")
    assert (done.code, "HTTP status 451" in done.err) == (4, True), done.err


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("hf:some/nowhere", 2, "no such dataset on the Hub: some/nowhere"),
        ("hf:some/where@nosuch", 2, "no such revision of some/where: nosuch"),
        ("hf:not a name", 2, "no such dataset on the Hub: not a name"),
        ("finewebb", 2, "did you mean fineweb"),
    ],
)
def test_what_is_not_there(source: str, code: int, said: str, shard: Shard) -> None:
    done = shard(source)
    assert (done.code, said in done.err) == (code, True), done.err
    assert "Traceback" not in done.err


def test_no_such_subset(shard: Shard) -> None:
    done = shard("fineweb", "--subset", "sample-1OBT")
    assert (done.code, "did you mean sample-10BT" in done.err) == (2, True)


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_is_used_and_never_shown(status: int, shard: Shard, hub: Hub, tmp_path: Path) -> None:
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
    """F22: an error at once without a copy; all from the copy where the hub's cache has one."""
    began = time.monotonic()
    done = shard("hf:some/where", HF_HUB_OFFLINE="1")
    assert time.monotonic() - began < 10
    assert (done.code, "error[BG407]" in done.err) == (4, True), done.err
    assert "cached revisions" in done.err
    assert "local files" in done.err
    assert shard("hf:some/where", "--out", "online").code == 0
    still = shard("hf:some/where", "--out", "offline", HF_HUB_OFFLINE="1")
    assert still.code == 4  # it is known what there is, but it is not here
    code = "from huggingface_hub import snapshot_download as get; get('some/where', repo_type='dataset')"
    env = {k: v for k, v in hub.environment(tmp_path).items() if v is not None}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)
    served = hub.requests["range"]
    done = shard("hf:some/where", "--out", "offline", HF_HUB_OFFLINE="1")
    assert done.code == 0, done.err
    assert hub.requests["range"] == served
    assert hashes(tmp_path / "offline") == hashes(tmp_path / "online")


def test_a_cache_that_cannot_be_written(shard: Shard) -> None:
    """F21."""
    done = shard("hf:some/where", HF_HOME="/proc/nowhere")
    assert done.code in (0, 4)
    assert "Traceback" not in done.err
    assert done.code == 0 or "HF_HOME" in done.err


# ---------------------------------------------------------------------------------------------------- addresses


def test_addresses(shard: Shard, hub: Hub, tmp_path: Path) -> None:
    texts = documents(0, 50)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    zipped = pa.compress(lines, codec="gzip", asbytes=True)
    files = {"a.parquet": parquet(texts), "a.jsonl": lines, "a.jsonl.gz": zipped, "a.txt": "\n\n".join(texts).encode()}
    hub.datasets["files"] = Dataset(files)
    for name in files:
        hub.faults = ["cut"]
        done = shard(f"{hub.url}/files/{name}", "--val-fraction", "0", "--out", name)
        assert done.code == 0, done.err
        assert sorted(texts_of(tmp_path / name, "train")) == sorted(texts)
        assert "etag" in read_manifest(tmp_path / name)["sources"][0]["revision"].lower()
    assert shard(f"{hub.url}/files/a.jsonl?version=1", "--val-fraction", "0", "--out", "query").code == 0
    assert len(texts_of(tmp_path / "query", "train")) == len(texts)
    done = shard(f"{hub.url}/files/none.parquet", "--out", "none")
    assert (done.code, "no such file" in done.err) == (2, True), done.err
    assert shard("nosuch://files/a.txt", "--out", "none").code == 2


# -------------------------------------------------------------------------------------------------- by its name


def test_a_name_is_enough(hub: Hub, tmp_path: Path, tokenizer: Path, process: Any) -> None:
    """Only the tokenizer is given, since GPT-2's own needs a network."""
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


def test_every_entry_says_what_it_is() -> None:
    for name, corpus in CORPORA.items():
        assert corpus.description, name
        assert corpus.license, name
        assert corpus.files["train"], name
        assert set(corpus.files) <= {"train", "val", "test"}, name
        assert bool(corpus.repository) == bool(corpus.revision), name
