"""Statistics of masks and sentence pairs over more than a million tokens, for each kind of tokenizer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertgpt.data.format import TokenFile, read_manifest
from bertgpt.data.loading.mlm import MLMBatch, open_mlm_dataset
from bertgpt.data.loading.rows import SpanFile
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer

BuildPlan = Callable[..., Path]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["bpe", "wordpiece"])
def build_plan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BuildPlan:
    """Builds mask plans over shards of tinyworld."""
    import bertgpt

    folder = tmp_path_factory.mktemp(request.param)
    options = {"limit_docs": 16_000, "train_tokenizer": request.param, "vocab_size": 1500, "shard_tokens": 400_000}
    shards = bertgpt.shard("tinyworld", out=str(folder / "shards"), train_bytes=1_000_000, **options)
    assert shards["splits"]["train"]["tokens"] > 1_050_000

    def build_with(**options: object) -> Path:
        out = folder / "-".join(map(str, options.values()))
        bertgpt.mask(str(folder / "shards"), out=str(out), **options)
        return out

    return build_with


def all_rows(folder: Path) -> tuple[MLMBatch, np.ndarray, Tokenizer]:
    """All rows of an epoch, their original ids, and the tokenizer."""
    rows = open_mlm_dataset(folder, "train")
    batch = rows.batch(np.arange(len(rows)), np.ones(len(rows), int))
    used = np.arange(batch.masked_positions.shape[1]) < batch.num_targets[:, None]
    ids = batch.input_ids.copy()
    row, slot = np.nonzero(used)
    ids[row, batch.masked_positions[row, slot]] = batch.labels[row, slot]
    return batch, ids, load_tokenizer(folder / "tokenizer")


@pytest.mark.parametrize("scheme", ["token", "whole-word", "span"])
def test_masks_of_a_million_tokens(scheme: str, build_plan: BuildPlan) -> None:
    batch, ids, tokenizer = all_rows(build_plan(scheme=scheme, seq_len=128))
    specials = np.array(sorted(tokenizer.special_ids))
    text = ~np.isin(ids, specials)
    tokens, n = int(text.sum()), int(batch.num_targets.sum())
    assert tokens > 1_000_000
    assert abs(n / tokens - 0.15) < 0.005
    row, slot = np.nonzero(np.arange(batch.masked_positions.shape[1]) < batch.num_targets[:, None])
    position = batch.masked_positions[row, slot]
    original, new = batch.labels[row, slot], batch.input_ids[row, position]
    assert not np.isin(original, specials).any()
    mask = tokenizer.roles["mask"]
    assert not np.isin(new[new != mask], specials).any()
    chance = 1 / (len(tokenizer.vocab) - len(specials))
    expected = np.array([0.8, 0.1 * (1 - chance), 0.1 + 0.1 * chance]) * n
    counts = np.array([(new == mask).sum(), ((new != mask) & (new != original)).sum(), (new == original).sum()])
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # one in a thousand, by chi-square
    untouched = np.ones(ids.shape, np.bool_)
    untouched[row, position] = False
    assert np.array_equal(batch.input_ids[untouched], ids[untouched])
    if scheme != "token":
        masked = ~untouched
        continues = text[:, 1:] & ~tokenizer.starts_word[ids[:, 1:]] & text[:, :-1]
        assert np.array_equal(masked[:, 1:][continues], masked[:, :-1][continues])


@pytest.mark.parametrize("sentence_pairs", ["nsp", "sop"])
def test_sentence_pairs_of_a_million_tokens(sentence_pairs: str, build_plan: BuildPlan) -> None:
    folder = build_plan(sentence_pairs=sentence_pairs, seq_len=128)
    shards = folder.parent / "shards"
    labels = np.zeros(3, int)
    for file in read_manifest(shards)["files"]:
        base = TokenFile(shards / file["path"])
        values = SpanFile(folder / file["path"].replace(".arrow", ".spans.arrow")).values
        a, b = (values[name].astype(np.int64) for name in ("a_start", "b_start"))
        a_size, b_size = (values[name].astype(np.int64) for name in ("a_len", "b_len"))
        label = values["next_sentence"]
        labels += np.bincount(label, minlength=3)
        paired = label < 2
        document_a, document_b = (np.searchsorted(base.offsets, start, side="right") for start in (a, b))
        if sentence_pairs == "nsp":
            assert (document_a[label == 1] != document_b[label == 1]).all()
        else:
            assert (b + b_size == a)[label == 1].all()
        assert (a + a_size == b)[label == 0].all()
        assert (b_size[paired] > 0).all()
        uses = np.zeros(len(base.flat) + 1, int)  # of each id: +1 where a sentence starts, -1 where it ends
        for start, size in ((a, a_size), (b[paired], b_size[paired])):
            np.add.at(uses, start, 1)
            np.add.at(uses, start + size, -1)
        end_ids = base.offsets[1:] - 1
        expected = np.ones(len(base.flat), int)
        expected[end_ids] = 0
        assert np.array_equal(uses.cumsum()[:-1], expected)
    assert abs(labels[1] / labels[:2].sum() - 0.5) < 0.01
