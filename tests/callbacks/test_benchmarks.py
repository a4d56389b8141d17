"""Suites that are asked while a model is trained."""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import bertgpt
from bertgpt.callbacks.benchmarks import BenchmarkCallback
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.training.distributed import DistContext
from bertgpt.utils.errors import BertGPTError
from tests.fixtures.models import written
from tests.fixtures.training import SMALL, weights


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little text."""
    folder = tmp_path_factory.mktemp("few")
    bertgpt.shard(
        "tinyworld", out=str(folder / "shards"), limit_docs=30, train_tokenizer="bpe", vocab_size=400, val_fraction=0.2
    )
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AG News and HellaSwag in their layouts, in small."""
    folder = tmp_path_factory.mktemp("sets")
    for name in ("agnews", "hellaswag"):
        (folder / name).mkdir()
    rows = "".join(f'"{n % 2 + 1}","title {n}","{"rain" if n % 2 else "a purse"}"\n' for n in range(60))
    (folder / "agnews" / "train.csv").write_text(rows)
    (folder / "agnews" / "test.csv").write_text(rows)
    item = {"ctx_full": "There was", "endings": ["a", "b", "rain and frost", "d"], "label": 2}
    (folder / "hellaswag" / "val.jsonl").write_text(json.dumps(item) * 1 + "\n" + json.dumps(item) + "\n")
    return folder


def test_they_are_asked_in_time_and_change_nothing(few: Path, sets: Path, tmp_path: Path) -> None:
    how = SMALL | {
        "probe": "agnews",
        "probe_every": 4,
        "probe_data": str(sets),
        "eval": "hellaswag",
        "eval_data": str(sets),
    }
    found = bertgpt.pretrain(str(few / "shards"), out=str(tmp_path / "asked"), **how)
    lines = [json.loads(line) for line in (tmp_path / "asked" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "agnews"] == [4, 8]
    assert [line["step"] for line in lines if line["split"] == "hellaswag"] == [3, 6, 8]
    assert 0 <= found["agnews_accuracy"] <= 1
    assert found["hellaswag_accuracy"] in (0.0, 1.0)
    assert (tmp_path / "asked" / "plots" / "agnews.tsv").read_text().startswith("step\taccuracy\n4\t")
    bertgpt.pretrain(str(few / "shards"), out=str(tmp_path / "plain"), **SMALL)
    one, other = (weights(tmp_path / name) for name in ("asked", "plain"))
    assert all(one[name].equal(other[name]) for name in one)
    again = bertgpt.pretrain(str(few / "shards"), out=str(tmp_path / "asked"), **how)
    assert again["agnews_accuracy"] == found["agnews_accuracy"]


@dataclass(frozen=True)
class Part(DistContext):
    """One of two processes, which knows what the other has found."""

    others: list[Any] = field(default_factory=list)

    def add(self, values: torch.Tensor) -> torch.Tensor:
        return values + self.others.pop(0) if self.others else values


@pytest.mark.parametrize("name", ["agnews", "hellaswag"])
def test_items_are_divided_over_processes(name: str, sets: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Each asks its own, and all come to the score that one would."""
    kept = written(tmp_path, "gpt2", tokenizer)
    watched = BenchmarkCallback.load(name, 1, str(sets), 1000, tokenizer, "clm", 128)
    found: list[torch.Tensor] = []

    def asked(group: DistContext) -> float:
        trainer = SimpleNamespace(model=kept.model, dist=group, device=torch.device("cpu"))
        said = watched(trainer)
        assert said is not None
        return float(said["accuracy"])

    class Listening(DistContext):
        def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
            found.append(values.clone())
            return values

    alone = asked(DistContext())
    with suppress(BertGPTError):  # half of the features make no classifier
        asked(Listening(2, 1))
    assert asked(Part(2, 0, found)) == alone


def test_what_is_wrong_is_said_before_anything_is_trained(few: Path, sets: Path, tmp_path: Path) -> None:
    with pytest.raises(BertGPTError):
        bertgpt.pretrain(
            str(few / "shards"), out=str(tmp_path / "x"), probe="agnews", probe_data=str(tmp_path), **SMALL
        )
    assert not (tmp_path / "x" / "metrics.jsonl").exists()
