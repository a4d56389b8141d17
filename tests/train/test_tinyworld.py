"""From text to score: what a short run learns of tinyworld, against the truth. Few bugs anywhere would pass."""

from pathlib import Path

import pytest

import bertgpt
from bertgpt import saved
from bertgpt.corpora.tinyworld import World
from bertgpt.corpora.tinyworld.tasks import SPLITS
from bertgpt.evals.tinyworld import excess, recovery

RUN = {"tokens_per_step": 4096, "max_steps": 150, "device": "cpu", "eval_every": 1000, "precision": "auto"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten thousand documents in words."""
    out = tmp_path_factory.mktemp("tinyworld") / "shards"
    bertgpt.shard("tinyworld", out=str(out), limit_docs=10_000, train="bpe", vocab_size=4096, val_fraction=0.01)
    return out


def test_a_gpt_comes_near_the_entropy_and_not_below(shards: Path, tmp_path: Path) -> None:
    bertgpt.pretrain(str(shards), preset="tiny-gpt", out=str(tmp_path / "run"), **RUN)
    found = excess(saved.load(tmp_path / "run"), World(0), list(World(0).documents(SPLITS["dev"], SPLITS["dev"] + 200)))
    assert 0 < found["excess"] < 0.0
    assert all(part["nats"] > part["true_nats"] for part in found["by_mechanism"].values())


def test_a_bert_guesses_as_the_oracle_where_that_is_easy(shards: Path, tmp_path: Path) -> None:
    bertgpt.mask(str(shards), out=str(tmp_path / "plan"), seq_len=256, rate=0.3)
    bertgpt.pretrain(str(tmp_path / "plan"), preset="tiny-bert", out=str(tmp_path / "run"), **RUN)
    found = recovery(
        saved.load(tmp_path / "run"), World(0), list(World(0).documents(SPLITS["dev"], SPLITS["dev"] + 20))
    )
    assert 0.0 < found["share"] < 1.02
