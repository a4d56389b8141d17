"""Data loader: each sample once per epoch, the same order for any partition, and correct causal and masked rows."""

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
from bertgpt.data.loading.mlm import MLMBatch, open_mlm_dataset, unmasked
from bertgpt.data.loading.permutation import EpochPermutation
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import sha256_of
from tests.conftest import Outcome

Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of tinyworld, and a mask plan for each kind of sentence pairs."""
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
    for task in ("none", "nsp", "sop"):
        bertgpt.mask(str(folder / "shards"), out=str(folder / task), seq_len=64, sentence_pairs=task)
    return folder


# --------------------------------------------------------------------------------------------------- permutation


@pytest.mark.parametrize("num_samples", [1, 2, 3, 5, 64, 1000, 4097])
def test_each_epoch_has_every_sample_once(num_samples: int) -> None:
    permutation = EpochPermutation(num_samples, 5)
    epochs, indices = permutation.epoch_and_index(np.arange(3 * num_samples))
    assert epochs.tolist() == [epoch for epoch in range(3) for _ in range(num_samples)]
    for epoch in range(3):
        assert sorted(indices[epochs == epoch].tolist()) == list(range(num_samples))
    if num_samples > 60:
        first, second = indices[:num_samples], indices[num_samples : 2 * num_samples]
        assert not np.array_equal(first, second)
        assert abs(np.corrcoef(first, np.arange(num_samples))[0, 1]) < 0.35


def test_permutation_of_a_trillion_samples() -> None:
    permutation = EpochPermutation(10**12, 5)
    _, indices = permutation.epoch_and_index(np.array([10**12 - 1, 5 * 10**11]))
    assert (indices < 10**12).all()


BATCH = 8
PARTITIONS = [(1, 8, 1), (2, 4, 1), (4, 1, 2), (1, 2, 4)]  # world size, micro-batch size, accumulation steps


class IndexDataset:
    """Each sample is its epoch and index."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: np.ndarray, epochs: np.ndarray) -> list[tuple[int, int]]:
        return list(zip(epochs.tolist(), indices.tolist(), strict=True))


def samples_of_steps(world_size: int, accumulation_steps: int, first: int, last: int, *sizes: int) -> list[list[Any]]:
    """The samples of each stream, of 61, 62... samples, in the steps `first` to `last`, from all ranks together."""
    samples: list[list[Any]] = [[] for _ in sizes]
    streams = [ShuffledStream(IndexDataset(61 + i), 3, size) for i, size in enumerate(sizes)]
    partitions = [BatchPartition(world_size, rank, accumulation_steps) for rank in range(world_size)]
    loaders = [StepLoader(*streams, partition=partition) for partition in partitions]
    for step in range(first, last):
        for micro_step in range(accumulation_steps):
            for loader in loaders:
                for stream, positions in enumerate(loader.stream_positions(step, micro_step)):
                    samples[stream] += loader.streams[stream].batch(positions) if len(positions) else []
    return samples


@pytest.mark.parametrize("sizes", [(BATCH,), (3, 5), (8, 0)])
@pytest.mark.parametrize(("world_size", "micro_batch_size", "accumulation_steps"), PARTITIONS)
def test_order_is_the_same_for_any_partition(
    world_size: int, micro_batch_size: int, accumulation_steps: int, sizes: tuple[int, ...]
) -> None:
    """Also if training resumes twice with another world size, the second time past the end of an epoch."""
    partition = BatchPartition(world_size, 0, accumulation_steps)
    loader = StepLoader(ShuffledStream(IndexDataset(61), 3, BATCH), partition=partition)
    assert loader.micro_batch_size == micro_batch_size
    expected = samples_of_steps(1, 1, 0, 30, *sizes)
    assert samples_of_steps(world_size, accumulation_steps, 0, 30, *sizes) == expected
    parts = [
        samples_of_steps(world_size, accumulation_steps, 0, 5, *sizes),
        samples_of_steps(4, 2, 5, 19, *sizes),
        samples_of_steps(2, 1, 19, 30, *sizes),
    ]
    assert [[*a, *b, *c] for a, b, c in zip(*parts, strict=True)] == expected
    for count, (stream, size) in zip((61, 62), enumerate(sizes), strict=False):
        assert len(expected[stream]) == 30 * size
        first_epoch = [index for epoch, index in expected[stream] if epoch == 0]
        assert sorted(first_epoch) == list(range(count)) or len(expected[stream]) < count


def test_batch_size_must_be_divisible() -> None:
    with pytest.raises(BertGPTError, match="not divisible"):
        StepLoader(ShuffledStream(IndexDataset(61), 3, BATCH), partition=BatchPartition(3, 0, 1))


def test_hybrid_step_has_rows_of_both_kinds(folder: Path) -> None:
    """Each stream counts its own samples; a micro-batch has a batch of each kind that is in it."""
    masked, causal = open_mlm_dataset(folder / "none", "train"), CausalDataset(folder / "shards", "train", 64)
    sizes = hybrid_split(16, 0.3)
    assert sizes == (5, 11)
    streams = [ShuffledStream(dataset, 3, size) for dataset, size in zip((masked, causal), sizes, strict=True)]
    step = next(StepLoader(*streams, partition=BatchPartition(1, 0, 4)).steps(7))
    kinds = [[type(batch) for batch in micro_batch] for micro_batch in step]
    assert kinds == [[MLMBatch], [MLMBatch, CausalBatch], [CausalBatch], [CausalBatch]]
    assert [[len(batch.input_ids) for batch in micro_batch] for micro_batch in step] == [[4], [1, 3], [4], [4]]
    alone = StepLoader(ShuffledStream(causal, 3, 11)).batch(7, 0)[0]
    together = [batch.input_ids for micro_batch in step for batch in micro_batch if type(batch) is CausalBatch]
    assert np.array_equal(np.concatenate(together), alone.input_ids)


# -------------------------------------------------------------------------------------------------------- causal


@pytest.mark.parametrize("seq_len", [1, 64, 1000, 10**6])
def test_each_token_after_the_first_is_a_target_once(seq_len: int, folder: Path) -> None:
    dataset = CausalDataset(folder / "shards", "train", seq_len)
    stream = np.concatenate(dataset.tokens)
    count = min(len(dataset), 3000)
    batch = dataset.batch(np.arange(count), np.zeros(count, int))
    rows = list(zip(batch.input_ids, batch.num_targets.tolist(), strict=True))
    targets = np.concatenate([row[1 : n + 1] for row, n in rows])
    inputs = np.concatenate([row[:n] for row, n in rows])
    assert np.array_equal(targets, stream[1 : 1 + count * seq_len])
    assert np.array_equal(inputs, stream[: len(targets)])
    assert batch.input_ids.dtype == np.uint16
    if count == len(dataset):
        assert len(targets) == len(stream) - 1


# -------------------------------------------------------------------------------------------------------- masked


@pytest.mark.parametrize("task", ["none", "nsp", "sop"])
def test_rows_have_each_token_of_each_document_once(task: str, folder: Path) -> None:
    dataset = open_mlm_dataset(folder / task, "train")
    batch = dataset.batch(np.arange(len(dataset)), np.zeros(len(dataset), int))
    shards = read_manifest(folder / "shards")
    base = [TokenFile(folder / "shards" / f["path"]) for f in shards["files"] if f["split"] == "train"]
    end = shards["tokenizer"]["roles"]["eos"]
    roles = read_manifest(folder / task)["tokenizer"]["roles"]
    ids = unmasked(batch)
    is_text = ~np.isin(ids, [roles["pad"], roles["cls"], roles["sep"]])
    expected = Counter(np.concatenate([file.flat[file.flat != end] for file in base]).tolist())
    assert Counter(ids[is_text].tolist()) == expected
    assert (batch.input_ids[:, 0] == roles["cls"]).all()
    for row, length in zip(ids[:200], batch.lengths[:200].tolist(), strict=True):
        assert row[length - 1] == roles["sep"]
        assert (row[length:] == roles["pad"]).all()
    num_segments = (batch.segment_starts < 64).sum()
    assert (ids == roles["cls"]).sum() == num_segments
    num_pairs = 0 if task == "none" else (batch.next_sentence_labels < 2).sum()
    assert (ids == roles["sep"]).sum() == num_segments + num_pairs
    if task != "none":
        negative_fraction = (batch.next_sentence_labels == 1).sum() / num_pairs
        assert abs(negative_fraction - 0.5) < 0.01
    padding = 1 - batch.lengths.sum() / batch.input_ids.size
    assert padding < (0.02 if task == "none" else 0.1)


def test_segments_are_passages_of_the_corpus(folder: Path) -> None:
    """Decoded, without a look at spans: an independent check of the offsets."""
    from bertgpt.tinyworld import World

    texts = "\n".join(document.text for document in World(0).documents(0, 3000))
    dataset = open_mlm_dataset(folder / "none", "train")
    tokenizer = load_tokenizer(folder / "none" / "tokenizer")
    batch = dataset.batch(np.arange(40), np.zeros(40, int))
    for ids, starts, length in zip(unmasked(batch), batch.segment_starts, batch.lengths, strict=True):
        ends = [*starts[(starts > 0) & (starts < 64)].tolist(), int(length)]
        for start, end in zip(starts.tolist(), ends, strict=False):
            assert tokenizer.decode(ids[start + 1 : end - 1].tolist()).strip() in texts


def test_validation_masks_are_the_same_in_each_epoch(folder: Path) -> None:
    val, train = open_mlm_dataset(folder / "none", "val"), open_mlm_dataset(folder / "none", "train")
    indices = np.arange(10)
    first, later = val.batch(indices, np.zeros(10, int)), val.batch(indices, np.full(10, 9))
    assert equal(first, later)
    first, later = train.batch(indices, np.zeros(10, int)), train.batch(indices, np.full(10, 9))
    assert not np.array_equal(first.masked_positions, later.masked_positions)


def equal(a: MLMBatch, b: MLMBatch) -> bool:
    """Whether two batches are identical, byte for byte."""
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in fields(MLMBatch)]
    return all(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs)


@pytest.mark.parametrize(("task", "scheme"), [("none", "token"), ("nsp", "whole-word"), ("sop", "span")])
def test_static_masks_equal_dynamic_masks(task: str, scheme: str, folder: Path, tmp_path: Path) -> None:
    import bertgpt

    options = {"seq_len": 48, "sentence_pairs": task, "scheme": scheme}
    for name, stored in {"dynamic": {}, "static": {"static": True, "dupe_factor": 2}}.items():
        bertgpt.mask(str(folder / "shards"), out=str(tmp_path / name), **options, **stored)
    for split in ("train", "val"):
        dynamic, static = (open_mlm_dataset(tmp_path / name, split) for name in ("dynamic", "static"))
        assert len(dynamic) == len(static) > 30
        indices = np.random.default_rng(1).permutation(len(dynamic))[:200]
        epochs = indices % 2
        batch = dynamic.batch(indices, epochs)
        assert equal(batch, static.batch(indices, epochs))
        assert equal(batch, static.batch(indices, epochs + 2))  # stored masks repeat
        assert equal(batch, dynamic.batch(indices, epochs + 2)) == (split == "val")


def test_dupe_factor_needs_static(folder: Path, tmp_path: Path, run: Run) -> None:
    result = run("mask", str(folder / "shards"), "--out", str(tmp_path / "plan"), "--dupe-factor", "3")
    assert result.code == 2
    assert "--dupe-factor needs --static" in result.err


def test_mask_plan_rejects_other_base_shards(folder: Path, tmp_path: Path, run: Run) -> None:
    result = run("shard", "tinyworld", "--limit-docs", "300", "--tokenizer", str(folder / "shards" / "tokenizer"),
                 "--out", str(tmp_path / "others"))  # fmt: skip
    assert result.code == 0, result.err
    with pytest.raises(BertGPTError) as error:
        open_mlm_dataset(folder / "none", "train", tmp_path / "others")
    assert error.value.code == "BG317"
    assert error.value.exit_code == 3
    manifest = read_manifest(folder / "none")
    assert manifest["base"]["manifest_sha256"] in str(error.value.cause)
    assert len(str(error.value.cause)) > 128


def test_ids_beyond_the_tokenizer_are_found_when_shards_are_opened(folder: Path, tmp_path: Path) -> None:
    """Not as a device-side assert on a GPU: manifest and file agree with each other, and are still rejected."""
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


@pytest.mark.slow
def test_a_thousand_shards_use_no_more_memory_than_is_read(tmp_path: Path) -> None:
    """No files stay open, and memory does not grow from epoch to epoch."""
    import bertgpt

    options = {"limit_docs": 6000, "train_tokenizer": "bpe", "vocab_size": 300, "val_fraction": 0}
    result = bertgpt.shard("tinyworld", out=str(tmp_path / "shards"), shard_tokens=1000, **options)
    assert result["files"] > 1000
    bertgpt.mask(str(tmp_path / "shards"), out=str(tmp_path / "plan"), seq_len=64)
    before = len(list(Path("/dev/fd").iterdir()))
    masked, causal = open_mlm_dataset(tmp_path / "plan", "train"), CausalDataset(tmp_path / "shards", "train", 64)
    loader = StepLoader(ShuffledStream(masked, 1, 8), ShuffledStream(causal, 1, 8))
    masked.batch(masked.file_offsets[:-1], np.zeros(result["files"], int))  # reads from each file once
    assert len(list(Path("/dev/fd").iterdir())) < before + 20
    sizes = []
    tracemalloc.start()
    for step in range(600):
        loader.batch(step, 0)
        if step % 200 == 199:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[2] - sizes[1] < 20_000


# ----------------------------------------------------------------------------------------------------- prefetcher


def test_prefetched_batches_are_the_same(folder: Path) -> None:
    loader = StepLoader(ShuffledStream(CausalDataset(folder / "shards", "train", 64), 3, 4))
    direct, prefetched = loader.steps(), Prefetcher(loader.steps())
    for _ in range(20):
        assert np.array_equal(next(direct)[0][0].input_ids, next(prefetched)[0][0].input_ids)
    prefetched.close()
    assert not prefetched.thread.is_alive()


def test_prefetcher_raises_errors_in_the_consumer() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise BertGPTError("BG304", "this is broken")

    prefetched = Prefetcher(broken())
    assert next(prefetched) == 1
    for _ in range(2):
        with pytest.raises(BertGPTError, match="this is broken"):
            next(prefetched)
    prefetched.close()


def test_prefetcher_ends_with_its_source() -> None:
    before = threading.active_count()
    prefetched = Prefetcher(iter([1, 2, 3]))
    assert list(prefetched) == [1, 2, 3]
    prefetched.close()
    assert threading.active_count() == before


# ------------------------------------------------------------------------------------------------------ mask plan


def test_mask_plan_is_the_same_for_any_number_of_workers(folder: Path, run: Run, tmp_path: Path) -> None:
    counts = []
    for workers in ("1", "3"):
        out = str(tmp_path / workers)
        result = run("mask", str(folder / "shards"), "--seq-len", "64", "--out", out, "--workers", workers, "--json")
        assert result.code == 0, result.err
        counts.append(json.loads(result.out)["result"]["counts"])
    files = [sorted(path.name for path in (tmp_path / workers).glob("*.arrow")) for workers in ("1", "3")]
    assert files[0] == files[1]
    for name in files[0]:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()
    assert counts[0] == counts[1]


def test_mask_adds_special_tokens_that_are_missing(run: Run, tmp_path: Path, data: Path) -> None:
    gpt2 = str(data / "tokenizers" / "gpt2")
    source = str(data / "fineweb-edu" / "000_00000.parquet")
    shards, plan = str(tmp_path / "shards"), str(tmp_path / "plan")
    result = run("shard", source, "--limit-docs", "60", "--tokenizer", gpt2, "--out", shards)
    assert result.code == 0, result.err
    assert run("mask", shards, "--out", plan, "--sentence-pairs", "sop").code == 0
    tokenizer: dict[str, Any] = read_manifest(Path(plan))["tokenizer"]
    assert tokenizer["max_id"] + 1 == 50_261
    assert [tokenizer["roles"][role] for role in ("pad", "cls", "sep", "mask")] == [50257, 50258, 50259, 50260]
    assert tokenizer["roles"]["eos"] == 50256
    assert tokenizer["base_sha256"] == read_manifest(Path(shards))["tokenizer"]["sha256"]
