"""What is promised of masks and pairs, counted over more than a million tokens of each kind of tokenizer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertgpt.data.format import TokenFile, read_manifest
from bertgpt.data.loading.mlm import MLMBatch, open_mlm_dataset
from bertgpt.data.loading.rows import SpanFile
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer

Plan = Callable[..., Path]


@pytest.fixture(scope="module", params=["bpe", "wordpiece"])
def plan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Plans over shards of tinyworld."""
    import bertgpt

    folder = tmp_path_factory.mktemp(request.param)
    options = {"limit_docs": 16_000, "train_tokenizer": request.param, "vocab_size": 1500, "shard_tokens": 400_000}
    made = bertgpt.shard("tinyworld", out=str(folder / "shards"), train_bytes=1_000_000, **options)
    assert made["splits"]["train"]["tokens"] > 1_050_000

    def made_plan(**options: object) -> Path:
        out = folder / "-".join(map(str, options.values()))
        bertgpt.mask(str(folder / "shards"), out=str(out), **options)
        return out

    return made_plan


def whole(folder: Path) -> tuple[MLMBatch, np.ndarray, Tokenizer]:
    """All rows of an epoch, and their ids as they were."""
    rows = open_mlm_dataset(folder, "train")
    batch = rows.batch(np.arange(len(rows)), np.ones(len(rows), int))
    used = np.arange(batch.positions.shape[1]) < batch.scored[:, None]
    ids = batch.ids.copy()
    row, slot = np.nonzero(used)
    ids[row, batch.positions[row, slot]] = batch.labels[row, slot]
    return batch, ids, load_tokenizer(folder / "tokenizer")


@pytest.mark.parametrize("scheme", ["token", "whole-word", "span"])
def test_what_is_hidden_of_a_million_tokens(scheme: str, plan: Plan) -> None:
    batch, ids, tokenizer = whole(plan(scheme=scheme, seq_len=128))
    specials = np.array(sorted(tokenizer.special_ids))
    text = ~np.isin(ids, specials)
    tokens, n = int(text.sum()), int(batch.scored.sum())
    assert tokens > 1_000_000
    assert abs(n / tokens - 0.15) < 0.005
    row, slot = np.nonzero(np.arange(batch.positions.shape[1]) < batch.scored[:, None])
    at = batch.positions[row, slot]
    was, now = batch.labels[row, slot], batch.ids[row, at]
    assert not np.isin(was, specials).any()
    mask = tokenizer.roles["mask"]
    assert not np.isin(now[now != mask], specials).any()
    chance = 1 / (len(tokenizer.vocab) - len(specials))
    expected = np.array([0.8, 0.1 * (1 - chance), 0.1 + 0.1 * chance]) * n
    counts = np.array([(now == mask).sum(), ((now != mask) & (now != was)).sum(), (now == was).sum()])
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # one in a thousand, by chi-square
    untouched = np.ones(ids.shape, np.bool_)
    untouched[row, at] = False
    assert np.array_equal(batch.ids[untouched], ids[untouched])
    if scheme != "token":
        hidden = ~untouched
        goes_on = text[:, 1:] & ~tokenizer.starts_word[ids[:, 1:]] & text[:, :-1]
        assert np.array_equal(hidden[:, 1:][goes_on], hidden[:, :-1][goes_on])


@pytest.mark.parametrize("pair", ["nsp", "sop"])
def test_pairs_of_a_million_tokens(pair: str, plan: Plan) -> None:
    folder = plan(sentence_pairs=pair, seq_len=128)
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
        home_a, home_b = (np.searchsorted(base.offsets, start, side="right") for start in (a, b))
        if pair == "nsp":
            assert (home_a[label == 1] != home_b[label == 1]).all()
        else:
            assert (b + b_size == a)[label == 1].all()
        assert (a + a_size == b)[label == 0].all()
        assert (b_size[paired] > 0).all()
        times = np.zeros(len(base.flat) + 1, int)  # how often each id is used, by where stretches begin and end
        for start, size in ((a, a_size), (b[paired], b_size[paired])):
            np.add.at(times, start, 1)
            np.add.at(times, start + size, -1)
        ends = base.offsets[1:] - 1
        once = np.ones(len(base.flat), int)
        once[ends] = 0
        assert np.array_equal(times.cumsum()[:-1], once)
    assert abs(labels[1] / labels[:2].sum() - 0.5) < 0.01
