"""Batches: every sample once an epoch, in an order that no division of the work changes."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertgpt.errors import BertGPTError
from bertgpt.shards.format import TokenFile, read_manifest
from bertgpt.shards.loader import Ahead, Division, Loader, Rows, Windows
from bertgpt.shards.order import Order
from bertgpt.tokens.tokenizer import Tokenizer
from tests.conftest import Outcome

Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of tinyworld, and a plan of each kind over them."""
    import bertgpt

    folder = tmp_path_factory.mktemp("loader")
    options = {"limit_docs": 3000, "train": "bpe", "vocab_size": 700, "shard_tokens": 40_000, "val_fraction": 0.05}
    bertgpt.shard("tinyworld", out=str(folder / "shards"), **options)
    for pair in ("none", "nsp", "sop"):
        bertgpt.mask(str(folder / "shards"), out=str(folder / pair), seq_len=64, pair=pair)
    return folder


# ------------------------------------------------------------------------------------------------------ order


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 64, 1000, 4097])
def test_an_epoch_has_every_sample_once(samples: int) -> None:
    order = Order(samples, 5)
    epochs, found = order.at(np.arange(3 * samples))
    assert epochs.tolist() == [epoch for epoch in range(3) for _ in range(samples)]
    for epoch in range(3):
        assert sorted(found[epochs == epoch].tolist()) == list(range(samples))
    if samples > 60:
        assert not np.array_equal(found[:samples], found[samples : 2 * samples])
        assert abs(np.corrcoef(found[:samples], np.arange(samples))[0, 1]) < 0.35


def test_a_slot_costs_the_same_anywhere() -> None:
    order = Order(10**12, 5)
    _, far = order.at(np.array([10**12 - 1, 5 * 10**11]))
    assert (far < 10**12).all()


DIVISIONS = [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)]


@pytest.mark.parametrize(("world", "accumulation"), DIVISIONS)
def test_no_division_of_the_work_changes_the_order(world: int, accumulation: int, folder: Path) -> None:
    rows = Rows(folder / "none", "train")

    def steps(world: int, accumulation: int, first: int, last: int) -> list[int]:
        found = []
        for step in range(first, last):
            for number in range(accumulation):
                for rank in range(world):
                    loader = Loader(rows, 3, 8, Division(world, rank, accumulation))
                    _, samples = loader.order.at(loader.slots(step * 8, number))
                    found += samples.tolist()
        return found

    per_epoch = len(rows) // 8 + 2  # past the end of an epoch
    whole = steps(1, 1, 0, per_epoch)
    assert steps(world, accumulation, 0, per_epoch) == whole
    parts = steps(world, accumulation, 0, 5) + steps(1, 4, 5, 9) + steps(accumulation, world, 9, per_epoch)
    assert parts == whole


def test_a_batch_that_cannot_be_divided(folder: Path) -> None:
    with pytest.raises(BertGPTError, match="cannot be divided"):
        Loader(Rows(folder / "none", "train"), 3, 8, Division(3, 0, 1))


# ----------------------------------------------------------------------------------------------------- causal


@pytest.mark.parametrize("length", [1, 64, 1000, 10**6])
def test_every_token_after_the_first_is_a_target_once(length: int, folder: Path) -> None:
    windows = Windows(folder / "shards", "train", length)
    stream = np.concatenate([file.flat for file in windows.files])
    count = min(len(windows), 3000)
    batch = windows.batch(np.arange(count), np.zeros(count, int))
    targets = np.concatenate([row[1 : n + 1] for row, n in zip(batch.ids, batch.scored.tolist(), strict=True)])
    inputs = np.concatenate([row[:n] for row, n in zip(batch.ids, batch.scored.tolist(), strict=True)])
    assert np.array_equal(targets, stream[1 : 1 + count * length])
    assert np.array_equal(inputs, stream[: len(targets)])
    assert batch.ids.dtype == np.uint16
    if count == len(windows):
        assert len(targets) == len(stream) - 1


# ----------------------------------------------------------------------------------------------------- masked


@pytest.mark.parametrize("pair", ["none", "nsp", "sop"])
def test_rows_have_every_token_of_every_document_once(pair: str, folder: Path) -> None:
    rows = Rows(folder / pair, "train")
    batch = rows.batch(np.arange(len(rows)), np.zeros(len(rows), int))
    shards = read_manifest(folder / "shards")
    base = [TokenFile(folder / "shards" / f["path"]) for f in shards["files"] if f["split"] == "train"]
    end = shards["tokenizer"]["roles"]["end"]
    found = Counter(batch.frames.ids[batch.frames.text].tolist())
    assert found == Counter(np.concatenate([file.flat[file.flat != end] for file in base]).tolist())
    roles = read_manifest(folder / pair)["tokenizer"]["roles"]
    assert (batch.frames.ids[:, 0] == roles["cls"]).all()
    for ids, length in zip(batch.frames.ids[:200], batch.frames.length[:200].tolist(), strict=True):
        assert ids[length - 1] == roles["sep"]
        assert (ids[length:] == roles["pad"]).all()
    pieces = (batch.frames.piece_starts < 64).sum()
    assert (batch.frames.ids == roles["cls"]).sum() == pieces
    seconds = 0 if pair == "none" else (batch.frames.next_sentence < 2).sum()
    assert (batch.frames.ids == roles["sep"]).sum() == pieces + seconds
    if pair != "none":
        share = (batch.frames.next_sentence == 1).sum() / seconds
        assert abs(share - 0.5) < 0.01
    padding = 1 - batch.frames.length.sum() / batch.frames.ids.size
    assert padding < (0.02 if pair == "none" else 0.1)


def test_pieces_are_texts_of_their_documents(folder: Path) -> None:
    """Read with one's own eyes: the pieces of a row, decoded, are passages of the corpus."""
    from bertgpt.corpora.tinyworld import World

    texts = "\n".join(document.text for document in World(0).documents(0, 3000))
    rows = Rows(folder / "none", "train")
    tokenizer = Tokenizer.load(folder / "none" / "tokenizer")
    batch = rows.batch(np.arange(40), np.zeros(40, int))
    for ids, starts, length in zip(batch.frames.ids, batch.frames.piece_starts, batch.frames.length, strict=True):
        ends = [*starts[(starts > 0) & (starts < 64)].tolist(), int(length)]
        for start, end in zip(starts.tolist(), ends, strict=False):
            assert tokenizer.decode(ids[start + 1 : end - 1].tolist()).strip() in texts


def test_labels_are_what_was_hidden(folder: Path) -> None:
    rows = Rows(folder / "none", "train")
    batch = rows.batch(np.arange(50), np.zeros(50, int))
    at = batch.masks.positions.astype(int)
    assert np.array_equal(batch.labels, np.take_along_axis(batch.frames.ids, at, 1))
    text = np.take_along_axis(batch.frames.text, at, 1)
    assert text[batch.masks.scored].all()


def test_validation_has_the_same_masks_whenever_it_is_looked_at(folder: Path) -> None:
    held_out, train = Rows(folder / "none", "val"), Rows(folder / "none", "train")
    some = np.arange(10)
    first, later = held_out.batch(some, np.zeros(10, int)), held_out.batch(some, np.full(10, 9))
    assert np.array_equal(first.masks.positions, later.masks.positions)
    first, later = train.batch(some, np.zeros(10, int)), train.batch(some, np.full(10, 9))
    assert not np.array_equal(first.masks.positions, later.masks.positions)


def test_rows_of_other_shards_are_refused(folder: Path, tmp_path: Path, run: Run) -> None:
    done = run("shard", "tinyworld", "--limit-docs", "300", "--tokenizer", str(folder / "shards" / "tokenizer"),
               "--out", str(tmp_path / "others"))  # fmt: skip
    assert done.code == 0, done.err
    with pytest.raises(BertGPTError) as error:
        Rows(folder / "none", "train", tmp_path / "others")
    assert error.value.code == "BG317"
    manifest = read_manifest(folder / "none")
    assert manifest["base"]["manifest_sha256"] in str(error.value.cause)
    assert len(str(error.value.cause)) > 128


# ---------------------------------------------------------------------------------------------- in the background


def test_what_is_made_ahead_is_the_same(folder: Path) -> None:
    loader = Loader(Windows(folder / "shards", "train", 64), 3, 4)
    straight, ahead = loader.steps(), Ahead(loader.steps())
    for _ in range(20):
        assert np.array_equal(next(straight)[0].ids, next(ahead)[0].ids)
    ahead.close()
    assert not ahead.thread.is_alive()


def test_errors_come_out_where_batches_are_asked_for() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise BertGPTError("BG304", "this is broken")

    ahead = Ahead(broken())
    assert next(ahead) == 1
    for _ in range(2):
        with pytest.raises(BertGPTError, match="this is broken"):
            next(ahead)
    ahead.close()


def test_the_end_is_the_end() -> None:
    before = threading.active_count()
    ahead = Ahead(iter([1, 2, 3]))
    assert list(ahead) == [1, 2, 3]
    ahead.close()
    assert threading.active_count() == before


# ------------------------------------------------------------------------------------------------------ the plan


def test_the_plan_is_the_same_from_any_number_of_workers(folder: Path, run: Run, tmp_path: Path) -> None:
    plans = []
    for workers in ("1", "3"):
        out = str(tmp_path / workers)
        done = run("mask", str(folder / "shards"), "--seq-len", "64", "--out", out, "--workers", workers, "--json")
        assert done.code == 0, done.err
        plans.append(json.loads(done.out)["result"]["counts"])
    files = [sorted(path.name for path in (tmp_path / w).glob("*.arrow")) for w in ("1", "3")]
    assert files[0] == files[1]
    for name in files[0]:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()
    assert plans[0] == plans[1]


def test_a_vocabulary_without_specials_gains_them(run: Run, tmp_path: Path, data: Path) -> None:
    gpt2 = str(data / "tokenizers" / "gpt2")
    source = str(data / "fineweb-edu" / "000_00000.parquet")
    shards, plan = str(tmp_path / "shards"), str(tmp_path / "plan")
    done = run("shard", source, "--limit-docs", "60", "--tokenizer", gpt2, "--out", shards)
    assert done.code == 0, done.err
    assert run("mask", shards, "--out", plan, "--pair", "sop").code == 0
    tokenizer: dict[str, Any] = read_manifest(Path(plan))["tokenizer"]
    assert tokenizer["max_id"] + 1 == 50_261
    assert [tokenizer["roles"][role] for role in ("pad", "cls", "sep", "mask")] == [50257, 50258, 50259, 50260]
    assert tokenizer["roles"]["end"] == 50256
    assert tokenizer["base_sha256"] == read_manifest(Path(shards))["tokenizer"]["sha256"]
