"""Benchmarks during training."""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import bertgpt
from bertgpt.callbacks.benchmarks import BenchmarkCallback
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.training.distributed import DistContext
from bertgpt.utils.errors import BertGPTError
from tests.fixtures.models import save_random_model
from tests.fixtures.training import SMALL_RUN, final_weights


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a few documents."""
    folder = tmp_path_factory.mktemp("corpus")
    bertgpt.shard(
        "tinyworld", out=str(folder / "shards"), limit_docs=30, train_tokenizer="bpe", vocab_size=400, val_fraction=0.2
    )
    return folder


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small AG News and HellaSwag files in their published layouts."""
    folder = tmp_path_factory.mktemp("suites")
    for name in ("agnews", "hellaswag"):
        (folder / name).mkdir()
    rows = "".join(f'"{n % 2 + 1}","title {n}","{"rain" if n % 2 else "a purse"}"\n' for n in range(60))
    (folder / "agnews" / "train.csv").write_text(rows)
    (folder / "agnews" / "test.csv").write_text(rows)
    item = {"ctx_full": "There was", "endings": ["a", "b", "rain and frost", "d"], "label": 2}
    (folder / "hellaswag" / "val.jsonl").write_text(f"{json.dumps(item)}\n" * 2)
    return folder


def test_benchmarks_run_at_their_interval_without_effect_on_training(
    corpus: Path, suites: Path, tmp_path: Path
) -> None:
    options = SMALL_RUN | {
        "probe": "agnews",
        "probe_every": 4,
        "probe_data": str(suites),
        "eval": "hellaswag",
        "eval_data": str(suites),
    }
    metrics = bertgpt.pretrain(str(corpus / "shards"), out=str(tmp_path / "benchmarked"), **options)
    lines = [json.loads(line) for line in (tmp_path / "benchmarked" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "agnews"] == [4, 8]
    assert [line["step"] for line in lines if line["split"] == "hellaswag"] == [3, 6, 8]
    assert 0 <= metrics["agnews_accuracy"] <= 1
    assert metrics["hellaswag_accuracy"] in (0.0, 1.0)
    assert (tmp_path / "benchmarked" / "plots" / "agnews.tsv").read_text().startswith("step\taccuracy\n4\t")
    bertgpt.pretrain(str(corpus / "shards"), out=str(tmp_path / "plain"), **SMALL_RUN)
    one, other = (final_weights(tmp_path / name) for name in ("benchmarked", "plain"))
    assert all(one[name].equal(other[name]) for name in one)
    again = bertgpt.pretrain(str(corpus / "shards"), out=str(tmp_path / "benchmarked"), **options)
    assert again["agnews_accuracy"] == metrics["agnews_accuracy"]


@dataclass(frozen=True)
class FakeRank(DistContext):
    """One of two ranks: rank 1 records the tensors that it reduces in `sums`, rank 0 adds them."""

    sums: list[torch.Tensor] = field(default_factory=list)

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        if self.is_main:
            return values + self.sums.pop(0)
        self.sums.append(values.clone())
        return values


@pytest.mark.parametrize("name", ["agnews", "hellaswag"])
def test_items_are_divided_over_ranks(name: str, suites: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Each rank evaluates its share, and all get the accuracy that one process gets."""
    model = save_random_model(tmp_path, "gpt2", tokenizer).model
    callback = BenchmarkCallback.load(name, 1, str(suites), 1000, tokenizer, "clm", 128)

    def accuracy(dist: DistContext) -> float:
        view = SimpleNamespace(model=model, dist=dist, device=torch.device("cpu"))
        metrics = callback(view)  # type: ignore[arg-type]
        assert metrics is not None
        return float(metrics["accuracy"])

    sums: list[torch.Tensor] = []
    with suppress(BertGPTError):  # half of the features cannot train a probe
        accuracy(FakeRank(2, 1, sums))
    assert accuracy(FakeRank(2, 0, sums)) == accuracy(DistContext())
    assert not sums


def test_missing_benchmark_data_is_reported_before_training(corpus: Path, suites: Path, tmp_path: Path) -> None:
    with pytest.raises(BertGPTError):
        bertgpt.pretrain(
            str(corpus / "shards"), out=str(tmp_path / "x"), probe="agnews", probe_data=str(tmp_path), **SMALL_RUN
        )
    assert not (tmp_path / "x" / "metrics.jsonl").exists()
