"""Content of shards: every document once, on one side of the split, in an order that only hash and seed decide."""

import json
import shlex
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest

from bertgpt.data.build import tokenize_worker, tokenizer_cache
from bertgpt.data.format import TokenFile, read_manifest
from bertgpt.data.loading.describe import to_datasets
from bertgpt.data.tokenizers.layouts import byte_level
from bertgpt.data.tokenizers.load import from_path, load_tokenizer
from bertgpt.data.tokenizers.tokenizer import DEFAULT_SPECIALS, Tokenizer, byte_alphabet
from bertgpt.tinyworld import World

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [document.text for document in World(11).documents(0, 1500)]


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tokenizer(cwd: Path) -> Path:
    """A byte-level tokenizer without merges: small, and every text round-trips."""
    alphabet = [*DEFAULT_SPECIALS, *byte_alphabet()]
    byte_level({token: i for i, token in enumerate(alphabet)}, [], DEFAULT_SPECIALS).save(cwd / "tokenizer")
    return cwd / "tokenizer"


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def rows(folder: Path, split: str | None = None) -> list[tuple[str, str, bytes, bool]]:
    """Every row: its split, text, document hash, and whether it is a later fragment of a document."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    all_rows = []
    for entry in read_manifest(folder)["files"]:
        file = TokenFile(folder / entry["path"])
        continued = file.batch.column("continued").to_pylist()
        for i in range(len(file)):
            text = tokenizer.decode(file.row(i).tolist())
            all_rows.append((entry["split"], text, file.documents[i].tobytes(), continued[i]))
    return [row for row in all_rows if split in (None, row[0])]


def shard(run: Run, source: Path | str, out: str, *more: str) -> Path:
    done = run("shard", str(source), "--out", out, *more)
    assert done.code == 0, done.err
    return Path(out)


def test_every_document_occurs_once_with_end_id(run: Run, cwd: Path, tokenizer: Path, texts: list[str]) -> None:
    source = write(cwd / "a.jsonl", texts)
    out = shard(run, source, "out", "--tokenizer", str(tokenizer), "--shard-tokens", "50k", "--val-fraction", "0.1")
    all_rows = rows(out)
    assert Counter(text for _, text, _, _ in all_rows) == Counter(text + "<|end|>" for text in set(texts))
    assert [text for _, text, _, _ in all_rows] != [text + "<|end|>" for text in texts]
    splits = Counter(split for split, _, _, _ in all_rows)
    assert 0.06 < splits["val"] / len(all_rows) < 0.14
    manifest = read_manifest(out)
    sizes = [file["tokens"] for file in manifest["files"] if file["split"] == "train"]
    assert len(sizes) == -(-sum(sizes) // 50_000)
    assert max(sizes) < 1.5 * 50_000
    assert manifest["splits"]["train"]["documents"] == splits["train"]
    assert (
        manifest["splits"]["train"]["bytes"]
        == sum(len(t.encode()) for s, t, _, _ in all_rows if s == "train") - 7 * splits["train"]
    )


def test_duplicates_share_a_split_and_new_data_moves_no_document(
    run: Run, cwd: Path, tokenizer: Path, texts: list[str]
) -> None:
    options = ("--tokenizer", str(tokenizer), "--val-fraction", "0.2", "--test-fraction", "0.1", "--no-dedup")
    few = shard(run, write(cwd / "a.jsonl", texts[:300] * 3), "few", *options)
    write(cwd / "b.jsonl", texts)
    more = shard(run, str(cwd / "*.jsonl"), "more", *options)
    sides = [{(text, split) for split, text, _, _ in rows(folder)} for folder in (few, more)]
    assert len(sides[0]) == len({text for text, _ in sides[0]}) == len(set(texts[:300]))
    assert sides[0] <= sides[1]
    assert {split for _, split in sides[1]} == {"train", "val", "test"}
    assert len(rows(few)) == 900
    dedup = shard(run, cwd / "a.jsonl", "dedup", *options[:-1])
    assert read_manifest(dedup)["counts"]["duplicates"] == 600 + 300 - len(set(texts[:300]))


def test_empty_split_is_noted(run: Run, cwd: Path, tokenizer: Path) -> None:
    """Or a run would train without validation, unnoticed."""
    texts = [f"Text number {number}." for number in range(20)]
    argv = ["shard", str(write(cwd / "a.jsonl", texts)), "--tokenizer", str(tokenizer), "--out", "out"]
    hint = (
        run(*argv).err.partition("the val split is empty: the smallest --val-fraction with a document is ")[2].split()
    )
    done = run(*argv, "--val-fraction", hint[0], "--overwrite")
    assert (done.code, "split is empty" in done.err) == (0, False), done.err
    splits = json.loads((cwd / "out" / "manifest.json").read_text())["splits"]
    assert (splits["val"]["documents"], splits["train"]["documents"]) == (1, 19)


def test_free_space(run: Run, cwd: Path, tokenizer: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed run has left needs no room again; an output on another file system needs its own."""
    source = write(cwd / "a.jsonl", texts)
    argv = ["shard", str(source), "--tokenizer", str(tokenizer), "--out", "out"]
    needed = json.loads(run(*argv, "--dry-run", "--json").out)["result"]["disk_needed"]
    free = {cwd: needed - 1}
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free.get(device_root(path), 1 << 40)))

    def device_root(path: Path) -> Path:
        return cwd if Path(path).is_relative_to(cwd) else Path("/dev/shm")

    done = run(*argv)
    assert (done.code, "error[BG403]: not enough disk space" in done.err) == (4, True), done.err
    with monkeypatch.context() as patched:
        patched.setattr("bertgpt.data.build.shuffle.DocumentIndex.read", lambda tokenized: 1 / 0)
        free[cwd] = needed
        assert run(*argv).code == 1  # everything is tokenized
    free[cwd] = needed - 1
    assert run(*argv).code == 0


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system")
def test_free_space_of_an_output_on_another_file_system(
    run: Run, cwd: Path, tokenizer: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as work:
        monkeypatch.setenv("BERTGPT_WORK", work)
        monkeypatch.setattr(
            "shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 40 if Path(path).is_relative_to(work) else 1)
        )
        argv = ["shard", str(write(cwd / "a.jsonl", texts)), "--tokenizer", str(tokenizer), "--out", "out"]
        done = run(*argv)
        assert (done.code, "error[BG403]: not enough disk space" in done.err) == (4, True), done.err


def test_empty_train_split_is_an_error(run: Run, cwd: Path, tokenizer: Path) -> None:
    """One document, and all of it in the val split."""
    argv = ["shard", str(write(cwd / "a.jsonl", ["One text."])), "--tokenizer", str(tokenizer), "--out", "out"]
    done = run(*argv, "--val-fraction", "0.9999")
    assert (done.code, "error[BG310]: the train split is empty" in done.err) == (3, True), done.err
    assert not (cwd / "out").exists()
    assert "too few to split" in run(*argv, "--val-fraction", "0.0001").err


def test_seed_changes_split_and_order(run: Run, cwd: Path, tokenizer: Path, texts: list[str]) -> None:
    source = write(cwd / "a.jsonl", texts[:400])
    options = ("--tokenizer", str(tokenizer), "--val-fraction", "0.3")
    one, two = (shard(run, source, f"s{seed}", *options, "--seed", str(seed)) for seed in (1, 2))
    assert {row[1] for row in rows(one)} == {row[1] for row in rows(two)}
    assert {row[1] for row in rows(one, "val")} != {row[1] for row in rows(two, "val")}
    first, second = ([row[1] for row in rows(out, "train")] for out in (one, two))
    in_both = set(first) & set(second)
    assert [text for text in first if text in in_both] != [text for text in second if text in in_both]


def test_split_and_order_are_golden(run: Run, cwd: Path, tokenizer: Path) -> None:
    """Of a seed and these documents, on every machine and in every version: or a corpus could not be made again."""
    source = write(cwd / "a.jsonl", [str(number) for number in range(24)])
    out = shard(run, source, "out", "--tokenizer", str(tokenizer), "--val-fraction", "0.25", "--seed", "7")
    order = {split: [row[1].removesuffix("<|end|>") for row in rows(out, split)] for split in ("train", "val")}
    assert {split: " ".join(texts) for split, texts in order.items()} == {
        "train": "4 9 16 13 8 11 22 21 0 23 6 18 17 2", "val": "15 20 7 12 14 3 19 5 1 10",
    }  # fmt: skip


@pytest.mark.parametrize("length", [3500, 3999, 4000, 1000, 999])
def test_document_longer_than_a_shard_is_fragmented(length: int, run: Run, cwd: Path, tokenizer: Path) -> None:
    """Some tools write for ever, some raise."""
    text = "".join(chr(ord("a") + i % 26) for i in range(length))
    source = write(cwd / "a.jsonl", [text, "short one", "short two"])
    out = shard(run, source, "out", "--tokenizer", str(tokenizer), "--shard-tokens", "1000", "--val-fraction", "0")
    all_rows = rows(out)
    ids = next(i for _, t, i, _ in all_rows if t.startswith("abcd"))
    fragments = sorted(
        (r for r in all_rows if r[2] == ids), key=lambda r: text.find(r[1].removesuffix("<|end|>") or "\0")
    )
    assert len(fragments) == -(-(length + 1) // 1000)
    assert sum(len(t) for _, t, _, _ in fragments) == length + len("<|end|>")
    assert sum(not continued for _, _, _, continued in fragments) == 1
    assert sum(t.endswith("<|end|>") for _, t, _, _ in all_rows) == 3
    assert read_manifest(out)["counts"]["fragmented_documents"] == (length >= 1000)


def test_limits_take_first_whole_documents(run: Run, cwd: Path, tokenizer: Path, texts: list[str]) -> None:
    write(cwd / "b.jsonl", texts[700:])
    write(cwd / "a.jsonl", texts[:700])
    for option, amount, size in (("docs", 900, lambda t: 1), ("tokens", 100_000, len), ("bytes", 60_000, len)):
        wanted, total = 0, 0
        while total < amount:
            total += size(texts[wanted])
            wanted += 1
        for workers in ("1", "3"):
            out = shard(
                run, str(cwd / "?.jsonl"), f"{option}{workers}", "--tokenizer", str(tokenizer), f"--limit-{option}",
                str(amount), "--workers", workers, "--no-dedup",
            )  # fmt: skip
            assert Counter(row[1] for row in rows(out)) == Counter(text + "<|end|>" for text in texts[:wanted])
    run("tokenize", "b.jsonl", "--tokenizer", str(tokenizer), "--limit-docs", "5", "--out", "tokens")
    assert [file["path"] for file in read_manifest(Path("tokens"))["files"]] == ["part-00000.arrow"]
    assert len(TokenFile(Path("tokens/part-00000.arrow"))) == 5


@pytest.mark.parametrize(("largest", "dtype"), [(65_534, "uint16"), (65_535, "uint16"), (65_536, "uint32")])
def test_dtype_fits_largest_id(largest: int, dtype: str, run: Run, cwd: Path) -> None:
    """An id of 70 000 cast to uint16 by numpy would silently become 4 464."""
    vocab = {token: i for i, token in enumerate([*DEFAULT_SPECIALS, *byte_alphabet()])}
    merges = [["a", "b"], ["ab", "ab"]]
    tokenizer = byte_level(vocab | {"ab": 300, "abab": largest}, merges, DEFAULT_SPECIALS)
    tokenizer.save(cwd / "wide")
    out = shard(run, write(cwd / "a.jsonl", ["abab c"]), "out", "--tokenizer", "wide", "--val-fraction", "0")
    assert read_manifest(out)["dtype"] == dtype
    file = TokenFile(out / "train-00000.arrow")
    assert file.flat.dtype == dtype
    assert int(file.flat[0]) == largest


def test_ids_beyond_the_vocabulary_raise(tokenizer: Path) -> None:
    with pytest.raises(ValueError, match="returned the id 70000"):
        tokenize_worker.cast_ids(np.array([5, 70_000], np.uint32), load_tokenizer(tokenizer))


def test_ids_spilled_to_disk_give_same_bytes(
    run: Run, cwd: Path, tokenizer: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(cwd / "a.jsonl", texts)
    done = [run("tokenize", str(source), "--tokenizer", str(tokenizer), "--out", "whole")]
    monkeypatch.setattr(tokenize_worker, "SPILL", 1000)
    monkeypatch.setattr("bertgpt.data.sources.text.BLOCK_BYTES", 5000)
    done.append(run("tokenize", str(source), "--tokenizer", str(tokenizer), "--out", "spilled"))
    assert [d.code for d in done] == [0, 0]
    assert Path("whole/manifest.json").read_bytes() == Path("spilled/manifest.json").read_bytes()
    assert not list(cwd.rglob("*.tmp"))


def test_shards_from_tokenized_files_equal_shards_from_text(
    run: Run, cwd: Path, tokenizer: Path, texts: list[str]
) -> None:
    source = write(cwd / "a.jsonl", texts)
    straight = shard(run, source, "straight", "--tokenizer", str(tokenizer), "--shard-tokens", "100k")
    assert run("tokenize", str(source), "--tokenizer", str(tokenizer), "--out", "tokens").code == 0
    shutil.move("tokens", "moved")
    shutil.rmtree(tokenizer)
    staged = shard(run, "moved", "staged", "--shard-tokens", "100k")
    for entry in read_manifest(straight)["files"]:
        assert (straight / entry["path"]).read_bytes() == (staged / entry["path"]).read_bytes()


def test_shards_open_in_pyarrow_polars_and_datasets(run: Run, cwd: Path, tokenizer: Path, texts: list[str]) -> None:
    out = shard(run, write(cwd / "a.jsonl", texts), "out", "--tokenizer", str(tokenizer), "--shard-tokens", "100k")
    files = [str(path) for path in sorted(out.glob("train-*.arrow"))]
    expected = [TokenFile(Path(file)).row(i).tolist() for file in files for i in range(len(TokenFile(Path(file))))]
    assert pa.dataset.dataset(files, format="ipc").to_table()["tokens"].to_pylist() == expected
    polars = pytest.importorskip("polars")
    assert polars.scan_ipc(files).collect()["tokens"].to_list() == expected
    before = pa.total_allocated_bytes()
    dataset = to_datasets(out)
    assert pa.total_allocated_bytes() - before < 100_000  # the ids stay memory-mapped
    assert dataset["tokens"] == expected
    assert len(to_datasets(out, "val")) == read_manifest(out)["splits"]["val"]["documents"]


def test_offsets_are_64_bit() -> None:
    """A column may hold more than 2**31 ids."""
    from bertgpt.data.format import shard_schema, tokenized_schema

    for schema in (tokenized_schema(np.dtype(np.uint16)), shard_schema(np.dtype(np.uint32))):
        assert pa.types.is_large_list(schema.field("tokens").type)
        assert not any(field.nullable for field in schema)


def test_dry_run_reports_plan_and_writes_nothing(run: Run, cwd: Path, texts: list[str]) -> None:
    source = write(cwd / "a.jsonl", texts)
    done = run(
        "shard", str(source), "--train-tokenizer", "bpe", "--vocab-size", "400", "--out", "out", "--dry-run", "--json"
    )
    plan = json.loads(done.out)["result"]
    assert plan["bytes"] == source.stat().st_size
    assert plan["disk_needed"] < plan["disk_free"]
    assert sorted(path.name for path in cwd.iterdir()) == ["a.jsonl"]


@pytest.mark.parametrize("given", [True, False])
def test_tokenizer_is_loaded_once_per_command(
    given: bool, run: Run, cwd: Path, tokenizer: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a large vocabulary takes as long as tokenizing some megabytes."""
    loaded: list[Path] = []

    def counted(path: Path) -> Tokenizer:
        loaded.append(path)
        return from_path(path)

    for module in ("tokenizers.load", "build.tokenize_worker", "build.tokenizer_cache"):
        monkeypatch.setattr(f"bertgpt.data.{module}.from_path", counted)
    monkeypatch.setattr(tokenizer_cache, "_tokenizers", {})
    source = str(write(cwd / "a.jsonl", texts))
    training = ("--train-tokenizer", "bpe", "--vocab-size", "400")
    options = ("--tokenizer", str(tokenizer)) if given else training
    commands = [
        (("tokenize", source, *options, "--out", "tokens"), int(given)),
        (("shard", "tokens", "--out", "shards"), 1),
        (("shard", source, *options, "--out", "direct"), int(given)),
        (("mask", "shards", "--out", "plan", "--static"), 1),
    ]
    for argv, times in commands:
        loaded.clear()
        done = run(*argv, "--workers", "1")
        assert done.code == 0, done.err
        assert len(loaded) == times, (argv, loaded)


COMMANDS = """
bertgpt tokenize tinyworld --limit-docs 20000 --train-tokenizer bpe --vocab-size 2048 --out work/tokens
bertgpt shard work/tokens --out work/shards --shard-tokens 250k --val-fraction 0.02 --seed 1337
bertgpt shard "$DATA/fineweb-edu/*.parquet" --tokenizer $DATA/tokenizers/gpt2 --out work/fw --shard-tokens 1M
bertgpt shard "$DATA/enwiki/*.jsonl.zst" --tokenizer $DATA/tokenizers/bert-base-uncased --out work/wiki
bertgpt shard tinyworld --limit-docs 2000 --train-tokenizer bpe --vocab-size 1024 --out work/tw --shard-tokens 100k
bertgpt inspect work/fw --verify
bertgpt inspect work/fw --doc 17
"""


@pytest.mark.slow
def test_real_text_end_to_end(run: Run, cwd: Path, data: Path) -> None:
    for line in COMMANDS.strip().splitlines():
        done = run(*shlex.split(line.replace("$DATA", str(data)))[1:])
        assert done.code == 0, done.err
    counts = read_manifest(Path("work/fw"))["counts"]
    assert (counts["documents"], counts["tokens"]) == (5041, 5_104_096)
    assert read_manifest(Path("work/wiki"))["tokenizer"]["roles"]["eos"] == 102
    assert "[SEP]" in rows(Path("work/wiki"), "val")[3][1]
