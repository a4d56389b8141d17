"""Batches: every sample once an epoch, in an order that no division of the work changes."""

import json
import shutil
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertgpt.data.format import TokenFile, read_manifest
from bertgpt.data.loading.causal import CausalBatch, CausalDataset
from bertgpt.data.loading.loader import BatchPartition, Prefetcher, ShuffledStream, StepLoader, hybrid_split
from bertgpt.data.loading.mlm import MLMBatch, open_mlm_dataset
from bertgpt.data.loading.permutation import EpochPermutation
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import sha256_of
from tests.conftest import Outcome

Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of tinyworld, and a plan of each kind over them."""
    import bertgpt

    folder = tmp_path_factory.mktemp("loader")
    options = {
        "limit_docs": 3000,
        "train_tokenizer": "bpe",
        "vocab_size": 700,
        "shard_tokens": 40_000,
        "val_fraction": 0.05,
    }
    bertgpt.shard("tinyworld", out=str(folder / "shards"), **options)
    for pair in ("none", "nsp", "sop"):
        bertgpt.mask(str(folder / "shards"), out=str(folder / pair), seq_len=64, sentence_pairs=pair)
    return folder


# ------------------------------------------------------------------------------------------------------ order


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 64, 1000, 4097])
def test_an_epoch_has_every_sample_once(samples: int) -> None:
    order = EpochPermutation(samples, 5)
    epochs, found = order.epoch_and_index(np.arange(3 * samples))
    assert epochs.tolist() == [epoch for epoch in range(3) for _ in range(samples)]
    for epoch in range(3):
        assert sorted(found[epochs == epoch].tolist()) == list(range(samples))
    if samples > 60:
        assert not np.array_equal(found[:samples], found[samples : 2 * samples])
        assert abs(np.corrcoef(found[:samples], np.arange(samples))[0, 1]) < 0.35


def test_a_slot_costs_the_same_anywhere() -> None:
    order = EpochPermutation(10**12, 5)
    _, far = order.epoch_and_index(np.array([10**12 - 1, 5 * 10**11]))
    assert (far < 10**12).all()


BATCH = 8
DIVISIONS = [(1, 8, 1), (2, 4, 1), (4, 1, 2), (1, 2, 4)]  # world, micro-batch, accumulation


class Numbers:
    """Samples that are their own numbers, with the epoch."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batch(self, samples: np.ndarray, epochs: np.ndarray) -> list[tuple[int, int]]:
        return list(zip(epochs.tolist(), samples.tolist(), strict=True))


def in_steps(world: int, accumulation: int, first: int, last: int, *sizes: int) -> list[list[Any]]:
    """What each stream of 61, 62... samples gives in some steps, made by so many processes."""
    found: list[list[Any]] = [[] for _ in sizes]
    streams = [ShuffledStream(Numbers(61 + i), 3, size) for i, size in enumerate(sizes)]
    loaders = [StepLoader(*streams, division=BatchPartition(world, rank, accumulation)) for rank in range(world)]
    for step in range(first, last):
        for number in range(accumulation):
            for loader in loaders:
                for stream, slots in enumerate(loader.slots(step, number)):
                    found[stream] += loader.streams[stream].batch(slots) if len(slots) else []
    return found


@pytest.mark.parametrize("sizes", [(BATCH,), (3, 5), (8, 0)])
@pytest.mark.parametrize(("world", "micro", "accumulation"), DIVISIONS)
def test_no_division_of_the_work_changes_the_order(
    world: int, micro: int, accumulation: int, sizes: tuple[int, ...]
) -> None:
    """Nor does stopping and going on twice in another world, the second time past the end of an epoch."""
    assert (
        StepLoader(ShuffledStream(Numbers(61), 3, BATCH), division=BatchPartition(world, 0, accumulation)).micro
        == micro
    )
    whole = in_steps(1, 1, 0, 30, *sizes)
    assert in_steps(world, accumulation, 0, 30, *sizes) == whole
    parts = [in_steps(world, accumulation, 0, 5, *sizes), in_steps(4, 2, 5, 19, *sizes), in_steps(2, 1, 19, 30, *sizes)]
    assert [[*a, *b, *c] for a, b, c in zip(*parts, strict=True)] == whole
    for count, (stream, size) in zip((61, 62), enumerate(sizes), strict=False):
        assert len(whole[stream]) == 30 * size
        first = [sample for epoch, sample in whole[stream] if epoch == 0]
        assert sorted(first) == list(range(count)) or len(whole[stream]) < count


def test_a_batch_that_cannot_be_divided() -> None:
    with pytest.raises(BertGPTError, match="cannot be divided"):
        StepLoader(ShuffledStream(Numbers(61), 3, BATCH), division=BatchPartition(3, 0, 1))


def test_a_step_of_both_kinds(folder: Path) -> None:
    """Each kind counts its own samples; in a micro-batch is what there is of each."""
    rows, windows = open_mlm_dataset(folder / "none", "train"), CausalDataset(folder / "shards", "train", 64)
    sizes = hybrid_split(16, 0.3)
    assert sizes == (5, 11)
    streams = [ShuffledStream(samples, 3, size) for samples, size in zip((rows, windows), sizes, strict=True)]
    loader = StepLoader(*streams, division=BatchPartition(1, 0, 4))
    step = next(loader.steps(7))
    kinds = [[type(part) for part in micro] for micro in step]
    assert kinds == [[MLMBatch], [MLMBatch, CausalBatch], [CausalBatch], [CausalBatch]]
    assert [[len(part.ids) for part in micro] for micro in step] == [[4], [1, 3], [4], [4]]
    alone = StepLoader(ShuffledStream(windows, 3, 11)).batch(7, 0)[0]
    assert np.array_equal(
        np.concatenate([part.input_ids for micro in step for part in micro if type(part) is CausalBatch]), alone.ids
    )


# ----------------------------------------------------------------------------------------------------- causal


@pytest.mark.parametrize("length", [1, 64, 1000, 10**6])
def test_every_token_after_the_first_is_a_target_once(length: int, folder: Path) -> None:
    windows = CausalDataset(folder / "shards", "train", length)
    stream = np.concatenate(windows.tokens)
    count = min(len(windows), 3000)
    batch = windows.batch(np.arange(count), np.zeros(count, int))
    targets = np.concatenate([row[1 : n + 1] for row, n in zip(batch.input_ids, batch.num_targets.tolist(), strict=True)])
    inputs = np.concatenate([row[:n] for row, n in zip(batch.input_ids, batch.num_targets.tolist(), strict=True)])
    assert np.array_equal(targets, stream[1 : 1 + count * length])
    assert np.array_equal(inputs, stream[: len(targets)])
    assert batch.input_ids.dtype == np.uint16
    if count == len(windows):
        assert len(targets) == len(stream) - 1


# ----------------------------------------------------------------------------------------------------- masked


def unmasked(batch: MLMBatch) -> np.ndarray:
    """The ids as they were."""
    ids = batch.ids.copy()
    for row, at, labels, n in zip(ids, batch.positions, batch.labels, batch.scored.tolist(), strict=True):
        row[at[:n]] = labels[:n]
    return ids


@pytest.mark.parametrize("pair", ["none", "nsp", "sop"])
def test_rows_have_every_token_of_every_document_once(pair: str, folder: Path) -> None:
    rows = open_mlm_dataset(folder / pair, "train")
    batch = rows.batch(np.arange(len(rows)), np.zeros(len(rows), int))
    shards = read_manifest(folder / "shards")
    base = [TokenFile(folder / "shards" / f["path"]) for f in shards["files"] if f["split"] == "train"]
    end = shards["tokenizer"]["roles"]["end"]
    roles = read_manifest(folder / pair)["tokenizer"]["roles"]
    ids = unmasked(batch)
    text = ~np.isin(ids, [roles["pad"], roles["cls"], roles["sep"]])
    found = Counter(ids[text].tolist())
    assert found == Counter(np.concatenate([file.flat[file.flat != end] for file in base]).tolist())
    assert (batch.ids[:, 0] == roles["cls"]).all()
    for row, length in zip(ids[:200], batch.length[:200].tolist(), strict=True):
        assert row[length - 1] == roles["sep"]
        assert (row[length:] == roles["pad"]).all()
    pieces = (batch.piece_starts < 64).sum()
    assert (ids == roles["cls"]).sum() == pieces
    seconds = 0 if pair == "none" else (batch.next_sentence < 2).sum()
    assert (ids == roles["sep"]).sum() == pieces + seconds
    if pair != "none":
        share = (batch.next_sentence == 1).sum() / seconds
        assert abs(share - 0.5) < 0.01
    padding = 1 - batch.length.sum() / batch.ids.size
    assert padding < (0.02 if pair == "none" else 0.1)


def test_pieces_are_texts_of_their_documents(folder: Path) -> None:
    """Read with one's own eyes: the pieces of a row, decoded, are passages of the corpus."""
    from bertgpt.tinyworld import World

    texts = "\n".join(document.text for document in World(0).documents(0, 3000))
    rows = open_mlm_dataset(folder / "none", "train")
    tokenizer = load_tokenizer(folder / "none" / "tokenizer")
    batch = rows.batch(np.arange(40), np.zeros(40, int))
    for ids, starts, length in zip(unmasked(batch), batch.piece_starts, batch.length, strict=True):
        ends = [*starts[(starts > 0) & (starts < 64)].tolist(), int(length)]
        for start, end in zip(starts.tolist(), ends, strict=False):
            assert tokenizer.decode(ids[start + 1 : end - 1].tolist()).strip() in texts


def test_validation_has_the_same_masks_whenever_it_is_looked_at(folder: Path) -> None:
    held_out, train = open_mlm_dataset(folder / "none", "val"), open_mlm_dataset(folder / "none", "train")
    some = np.arange(10)
    first, later = held_out.batch(some, np.zeros(10, int)), held_out.batch(some, np.full(10, 9))
    assert same(first, later)
    first, later = train.batch(some, np.zeros(10, int)), train.batch(some, np.full(10, 9))
    assert not np.array_equal(first.positions, later.positions)


def same(one: MLMBatch, other: MLMBatch) -> bool:
    """Whether two batches are the same to the byte."""
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(MLMBatch)]
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.mark.parametrize(("pair", "scheme"), [("none", "token"), ("nsp", "whole-word"), ("sop", "span")])
def test_static_masks_equal_dynamic_masks(pair: str, scheme: str, folder: Path, tmp_path: Path) -> None:
    import bertgpt

    options = {"seq_len": 48, "sentence_pairs": pair, "scheme": scheme}
    kinds = {"plan": {}, "static": {"static": True, "dupe_factor": 2}}
    for name, stored in kinds.items():
        bertgpt.mask(str(folder / "shards"), out=str(tmp_path / name), **options, **stored)
    for split in ("train", "val"):
        plan, static = (open_mlm_dataset(tmp_path / name, split) for name in ("plan", "static"))
        assert len(plan) == len(static) > 30
        some = np.random.default_rng(1).permutation(len(plan))[:200]
        epochs = some % 2
        drawn = plan.batch(some, epochs)
        assert same(drawn, static.batch(some, epochs))
        assert same(drawn, static.batch(some, epochs + 2))  # they repeat
        assert same(drawn, plan.batch(some, epochs + 2)) == (split == "val")


def test_copies_of_nothing(folder: Path, tmp_path: Path, run: Run) -> None:
    done = run("mask", str(folder / "shards"), "--out", str(tmp_path / "plan"), "--dupe-factor", "3")
    assert done.code == 2
    assert "--dupe-factor needs --static" in done.err


def test_rows_of_other_shards_are_refused(folder: Path, tmp_path: Path, run: Run) -> None:
    done = run("shard", "tinyworld", "--limit-docs", "300", "--tokenizer", str(folder / "shards" / "tokenizer"),
               "--out", str(tmp_path / "others"))  # fmt: skip
    assert done.code == 0, done.err
    with pytest.raises(BertGPTError) as error:
        open_mlm_dataset(folder / "none", "train", tmp_path / "others")
    assert error.value.code == "BG317"
    assert error.value.exit_code == 3
    manifest = read_manifest(folder / "none")
    assert manifest["base"]["manifest_sha256"] in str(error.value.cause)
    assert len(str(error.value.cause)) > 128


def test_an_id_that_the_tokenizer_lacks_is_found_when_shards_are_opened(folder: Path, tmp_path: Path) -> None:
    """Not when a GPU trips over it: the manifest and the file agree with each other, and are still refused."""
    shards = shutil.copytree(folder / "shards", tmp_path / "shards")
    manifest = read_manifest(shards)
    file = next(file for file in manifest["files"] if file["split"] == "train")
    flat = TokenFile(shards / file["path"]).flat
    raw = (shards / file["path"]).read_bytes()
    at = raw.index(flat[:64].tobytes())
    (shards / file["path"]).write_bytes(raw[:at] + np.uint16(60_000).tobytes() + raw[at + 2 :])
    file |= {"max_id": 60_000, "sha256": sha256_of(shards / file["path"])}
    (shards / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BertGPTError, match=r"60[,]?000"):
        CausalDataset(shards, "train", 64)


# ------------------------------------------------------------------------------------------- a thousand shards


def test_a_thousand_shards_take_no_more_memory_than_is_read(tmp_path: Path) -> None:
    """Neither files that stay open nor memory that grows from epoch to epoch."""
    import bertgpt

    options = {"limit_docs": 6000, "train_tokenizer": "bpe", "vocab_size": 300, "val_fraction": 0}
    made = bertgpt.shard("tinyworld", out=str(tmp_path / "shards"), shard_tokens=1000, **options)
    assert made["files"] > 1000
    bertgpt.mask(str(tmp_path / "shards"), out=str(tmp_path / "plan"), seq_len=64)
    before = len(list(Path("/dev/fd").iterdir()))
    rows, windows = open_mlm_dataset(tmp_path / "plan", "train"), CausalDataset(tmp_path / "shards", "train", 64)
    loader = StepLoader(ShuffledStream(rows, 1, 8), ShuffledStream(windows, 1, 8))
    rows.batch(rows.first[:-1], np.zeros(made["files"], int))  # each file is looked into once
    assert len(list(Path("/dev/fd").iterdir())) < before + 20
    sizes = []
    tracemalloc.start()
    for step in range(600):
        loader.batch(step, 0)
        if step % 200 == 199:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[2] - sizes[1] < 20_000


# ---------------------------------------------------------------------------------------------- in the background


def test_what_is_made_ahead_is_the_same(folder: Path) -> None:
    loader = StepLoader(ShuffledStream(CausalDataset(folder / "shards", "train", 64), 3, 4))
    straight, ahead = loader.steps(), Prefetcher(loader.steps())
    for _ in range(20):
        assert np.array_equal(next(straight)[0][0].ids, next(ahead)[0][0].ids)
    ahead.close()
    assert not ahead.thread.is_alive()


def test_errors_come_out_where_batches_are_asked_for() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise BertGPTError("BG304", "this is broken")

    ahead = Prefetcher(broken())
    assert next(ahead) == 1
    for _ in range(2):
        with pytest.raises(BertGPTError, match="this is broken"):
            next(ahead)
    ahead.close()


def test_the_end_is_the_end() -> None:
    before = threading.active_count()
    ahead = Prefetcher(iter([1, 2, 3]))
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
    assert run("mask", shards, "--out", plan, "--sentence-pairs", "sop").code == 0
    tokenizer: dict[str, Any] = read_manifest(Path(plan))["tokenizer"]
    assert tokenizer["max_id"] + 1 == 50_261
    assert [tokenizer["roles"][role] for role in ("pad", "cls", "sep", "mask")] == [50257, 50258, 50259, 50260]
    assert tokenizer["roles"]["end"] == 50256
    assert tokenizer["base_sha256"] == read_manifest(Path(shards))["tokenizer"]["sha256"]
