"""What shards hold: every document once, on one side of the split, in an order that only hash and seed decide."""

import json
import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest

from bertgpt.data.build import tokenize_worker
from bertgpt.data.format import TokenFile, read_manifest
from bertgpt.data.loading.describe import to_datasets
from bertgpt.data.tokenizers.layouts import byte_level
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.data.tokenizers.tokenizer import DEFAULT_SPECIALS, byte_alphabet
from bertgpt.tinyworld import World

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [document.text for document in World(11).documents(0, 1500)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tokenizer(here: Path) -> Path:
    """Bytes and no merges: small, and every text comes back."""
    alphabet = [*DEFAULT_SPECIALS, *byte_alphabet()]
    byte_level({token: i for i, token in enumerate(alphabet)}, [], DEFAULT_SPECIALS).save(here / "tokenizer")
    return here / "tokenizer"


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def rows(folder: Path, split: str | None = None) -> list[tuple[str, str, bytes, bool]]:
    """Every row: its split, text, document id and whether it goes on with a document that was cut."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    found = []
    for entry in read_manifest(folder)["files"]:
        file = TokenFile(folder / entry["path"])
        continued = file.batch.column("continued").to_pylist()
        for i in range(len(file)):
            text = tokenizer.decode(file.row(i).tolist())
            found.append((entry["split"], text, file.documents[i].tobytes(), continued[i]))
    return [row for row in found if split in (None, row[0])]


def shard(run: Run, source: Path | str, out: str, *more: str) -> Path:
    done = run("shard", str(source), "--out", out, *more)
    assert done.code == 0, done.err
    return Path(out)


def test_every_document_is_there_once_with_its_end(run: Run, here: Path, tokenizer: Path, texts: list[str]) -> None:
    source = write(here / "a.jsonl", texts)
    out = shard(run, source, "out", "--tokenizer", str(tokenizer), "--shard-tokens", "50k", "--val-fraction", "0.1")
    found = rows(out)
    assert Counter(text for _, text, _, _ in found) == Counter(text + "<|end|>" for text in set(texts))
    assert [text for _, text, _, _ in found] != [text + "<|end|>" for text in texts]
    splits = Counter(split for split, _, _, _ in found)
    assert 0.06 < splits["val"] / len(found) < 0.14
    manifest = read_manifest(out)
    sizes = [file["tokens"] for file in manifest["files"] if file["split"] == "train"]
    assert len(sizes) == -(-sum(sizes) // 50_000)
    assert max(sizes) < 1.5 * 50_000
    assert manifest["splits"]["train"]["documents"] == splits["train"]
    assert (
        manifest["splits"]["train"]["bytes"]
        == sum(len(t.encode()) for s, t, _, _ in found if s == "train") - 7 * splits["train"]
    )


def test_duplicates_stay_on_one_side_and_new_data_moves_nothing(
    run: Run, here: Path, tokenizer: Path, texts: list[str]
) -> None:
    """Case 20."""
    options = ("--tokenizer", str(tokenizer), "--val-fraction", "0.2", "--test-fraction", "0.1", "--no-dedup")
    few = shard(run, write(here / "a.jsonl", texts[:300] * 3), "few", *options)
    write(here / "b.jsonl", texts)
    more = shard(run, str(here / "*.jsonl"), "more", *options)
    sides = [{(text, split) for split, text, _, _ in rows(folder)} for folder in (few, more)]
    assert len(sides[0]) == len({text for text, _ in sides[0]}) == len(set(texts[:300]))
    assert sides[0] <= sides[1]
    assert {split for _, split in sides[1]} == {"train", "val", "test"}
    assert len(rows(few)) == 900
    dedup = shard(run, here / "a.jsonl", "dedup", *options[:-1])
    assert read_manifest(dedup)["counts"]["duplicates"] == 600 + 300 - len(set(texts[:300]))


def test_a_part_that_stays_empty_is_named(run: Run, here: Path, tokenizer: Path) -> None:
    """Or one would train without a look at texts that were held out, and not know it."""
    argv = ["shard", str(write(here / "a.jsonl", ["One text."])), "--tokenizer", str(tokenizer), "--out", "out"]
    assert "no document fell into val: a larger --val-fraction" in run(*argv).err


def test_another_seed_is_another_split_and_order(run: Run, here: Path, tokenizer: Path, texts: list[str]) -> None:
    source = write(here / "a.jsonl", texts[:400])
    options = ("--tokenizer", str(tokenizer), "--val-fraction", "0.3")
    one, two = (shard(run, source, f"s{seed}", *options, "--seed", str(seed)) for seed in (1, 2))
    assert {row[1] for row in rows(one)} == {row[1] for row in rows(two)}
    assert {row[1] for row in rows(one, "val")} != {row[1] for row in rows(two, "val")}
    first, second = ([row[1] for row in rows(out, "train")] for out in (one, two))
    in_both = set(first) & set(second)
    assert [text for text in first if text in in_both] != [text for text in second if text in in_both]


@pytest.mark.parametrize("length", [3500, 3999, 4000, 1000, 999])
def test_a_document_longer_than_a_shard_is_cut(length: int, run: Run, here: Path, tokenizer: Path) -> None:
    """Case 7: some tools write for ever, some raise."""
    text = "".join(chr(ord("a") + i % 26) for i in range(length))
    source = write(here / "a.jsonl", [text, "short one", "short two"])
    out = shard(run, source, "out", "--tokenizer", str(tokenizer), "--shard-tokens", "1000", "--val-fraction", "0")
    found = rows(out)
    ids = next(i for _, t, i, _ in found if t.startswith("abcd"))
    cut = sorted((r for r in found if r[2] == ids), key=lambda r: text.find(r[1].removesuffix("<|end|>") or "\0"))
    assert len(cut) == -(-(length + 1) // 1000)
    assert sum(len(t) for _, t, _, _ in cut) == length + len("<|end|>")
    assert sum(not continued for _, _, _, continued in cut) == 1
    assert sum(t.endswith("<|end|>") for _, t, _, _ in found) == 3
    assert read_manifest(out)["counts"]["cut_documents"] == (length >= 1000)


def test_limits_take_the_first_whole_documents(run: Run, here: Path, tokenizer: Path, texts: list[str]) -> None:
    write(here / "b.jsonl", texts[700:])
    write(here / "a.jsonl", texts[:700])
    for option, amount, size in (("docs", 900, lambda t: 1), ("tokens", 100_000, len), ("bytes", 60_000, len)):
        wanted, total = 0, 0
        while total < amount:
            total += size(texts[wanted])
            wanted += 1
        for workers in ("1", "3"):
            out = shard(
                run, str(here / "?.jsonl"), f"{option}{workers}", "--tokenizer", str(tokenizer), f"--limit-{option}",
                str(amount), "--workers", workers, "--no-dedup",
            )  # fmt: skip
            assert Counter(row[1] for row in rows(out)) == Counter(text + "<|end|>" for text in texts[:wanted])
    run("tokenize", "b.jsonl", "--tokenizer", str(tokenizer), "--limit-docs", "5", "--out", "tokens")
    assert [file["path"] for file in read_manifest(Path("tokens"))["files"]] == ["part-00000.arrow"]
    assert len(TokenFile(Path("tokens/part-00000.arrow"))) == 5


@pytest.mark.parametrize(("largest", "dtype"), [(65_534, "uint16"), (65_535, "uint16"), (65_536, "uint32")])
def test_ids_are_as_wide_as_the_largest(largest: int, dtype: str, run: Run, here: Path) -> None:
    """F07 and case 1: an id of 70 000 cast by numpy would become 4 464 in silence."""
    vocab = {token: i for i, token in enumerate([*DEFAULT_SPECIALS, *byte_alphabet()])}
    merges = [["a", "b"], ["ab", "ab"]]
    tokenizer = byte_level(vocab | {"ab": 300, "abab": largest}, merges, DEFAULT_SPECIALS)
    tokenizer.save(here / "wide")
    out = shard(run, write(here / "a.jsonl", ["abab c"]), "out", "--tokenizer", "wide", "--val-fraction", "0")
    assert read_manifest(out)["dtype"] == dtype
    file = TokenFile(out / "train-00000.arrow")
    assert file.flat.dtype == dtype
    assert int(file.flat[0]) == largest


def test_an_encoder_that_gives_impossible_ids_is_caught(tokenizer: Path) -> None:
    with pytest.raises(ValueError, match="gave the id 70000"):
        tokenize_worker.cast_ids(np.array([5, 70_000], np.uint32), load_tokenizer(tokenizer))


def test_a_part_that_does_not_fit_into_memory_is_the_same(
    run: Run, here: Path, tokenizer: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(here / "a.jsonl", texts)
    done = [run("tokenize", str(source), "--tokenizer", str(tokenizer), "--out", "whole")]
    monkeypatch.setattr(tokenize_worker, "SPILL", 1000)
    monkeypatch.setattr("bertgpt.data.sources.text.BLOCK_BYTES", 5000)
    done.append(run("tokenize", str(source), "--tokenizer", str(tokenizer), "--out", "spilled"))
    assert [d.code for d in done] == [0, 0]
    assert Path("whole/manifest.json").read_bytes() == Path("spilled/manifest.json").read_bytes()
    assert not list(here.rglob("*.tmp"))


def test_from_parts_and_from_text_the_shards_are_the_same(
    run: Run, here: Path, tokenizer: Path, texts: list[str]
) -> None:
    source = write(here / "a.jsonl", texts)
    straight = shard(run, source, "straight", "--tokenizer", str(tokenizer), "--shard-tokens", "100k")
    assert run("tokenize", str(source), "--tokenizer", str(tokenizer), "--out", "tokens").code == 0
    shutil.move("tokens", "moved")
    shutil.rmtree(tokenizer)
    staged = shard(run, "moved", "staged", "--shard-tokens", "100k")
    for entry in read_manifest(straight)["files"]:
        assert (straight / entry["path"]).read_bytes() == (staged / entry["path"]).read_bytes()


def test_shards_open_elsewhere(run: Run, here: Path, tokenizer: Path, texts: list[str]) -> None:
    out = shard(run, write(here / "a.jsonl", texts), "out", "--tokenizer", str(tokenizer), "--shard-tokens", "100k")
    files = [str(path) for path in sorted(out.glob("train-*.arrow"))]
    expected = [TokenFile(Path(file)).row(i).tolist() for file in files for i in range(len(TokenFile(Path(file))))]
    assert pa.dataset.dataset(files, format="ipc").to_table()["tokens"].to_pylist() == expected
    polars = pytest.importorskip("polars")
    assert polars.scan_ipc(files).collect()["tokens"].to_list() == expected
    before = pa.total_allocated_bytes()
    dataset = to_datasets(out)
    assert pa.total_allocated_bytes() - before < 100_000  # the ids stay in the map
    assert dataset["tokens"] == expected
    assert len(to_datasets(out, "val")) == read_manifest(out)["splits"]["val"]["documents"]


def test_offsets_have_room_for_more_than_2_to_the_31() -> None:
    """Case 17."""
    from bertgpt.data.format import shard_schema, tokenized_schema

    for schema in (tokenized_schema(np.dtype(np.uint16)), shard_schema(np.dtype(np.uint32))):
        assert pa.types.is_large_list(schema.field("tokens").type)
        assert not any(field.nullable for field in schema)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run: Run, here: Path, texts: list[str]) -> None:
    source = write(here / "a.jsonl", texts)
    done = run(
        "shard", str(source), "--train-tokenizer", "bpe", "--vocab-size", "400", "--out", "out", "--dry-run", "--json"
    )
    plan = json.loads(done.out)["result"]
    assert plan["bytes"] == source.stat().st_size
    assert plan["disk_needed"] < plan["disk_free"]
    assert sorted(path.name for path in here.iterdir()) == ["a.jsonl"]


AS_WRITTEN = """
bertgpt tokenize tinyworld --limit-docs 20000 --train-tokenizer bpe --vocab-size 2048 --out work/tokens
bertgpt shard work/tokens --out work/shards --shard-tokens 250k --val-fraction 0.02 --seed 1337
bertgpt shard "$DATA/fineweb-edu/*.parquet" --tokenizer $DATA/tokenizers/gpt2 --out work/fw --shard-tokens 1M
bertgpt shard "$DATA/enwiki/*.jsonl.zst" --tokenizer $DATA/tokenizers/bert-base-uncased --out work/wiki
bertgpt shard tinyworld --limit-docs 2000 --train-tokenizer bpe --vocab-size 1024 --out work/tw --shard-tokens 100k
bertgpt inspect work/fw --verify
bertgpt inspect work/fw --doc 17
"""


def test_real_text_from_end_to_end(run: Run, here: Path, data: Path) -> None:
    for line in AS_WRITTEN.strip().splitlines():
        done = run(*shlex.split(line.replace("$DATA", str(data)))[1:])
        assert done.code == 0, done.err
    counts = read_manifest(Path("work/fw"))["counts"]
    assert (counts["documents"], counts["tokens"]) == (5041, 5_104_096)
    assert read_manifest(Path("work/wiki"))["tokenizer"]["roles"]["end"] == 102
    assert "[SEP]" in rows(Path("work/wiki"), "val")[3][1]
