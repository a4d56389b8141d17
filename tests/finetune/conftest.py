"""Small models and small files of labelled texts."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bertgpt.saved import Saved
from bertgpt.tokens.tokenizer import Tokenizer
from tests.made import written

GOOD, BAD = ("She was glad of the rain.", "He was happy."), ("She was sad.", "He lost the purse and was angry.")
# fp32 on the CPU, and short.
QUICK: dict[str, Any] = {
    "precision": "fp32", "device": "cpu", "batch_size": 8, "max_steps": 6, "held_out": 0.2, "eval_every": 2,
    "log_every": 1, "random_baseline": False, "lr": 1e-3,
}  # fmt: skip
Sheet = Callable[..., Path]


def rows_of(count: int = 60) -> list[tuple[str, str]]:
    """Texts of two classes, no two of them the same."""
    return [(f"{(GOOD if i % 2 else BAD)[i // 2 % 2]} Day {i}.", "good" if i % 2 else "bad") for i in range(count)]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> dict[str, Path]:
    """A model of each family, as a run."""
    folder = tmp_path_factory.mktemp("bases")
    for family in ("gpt2", "bert", "encoder", "decoder"):
        written(folder / family, family, tokenizer)
    return {family: folder / family for family in ("gpt2", "bert", "encoder", "decoder")}


@pytest.fixture
def sheet(tmp_path: Path) -> Sheet:
    """Write a csv."""

    def write(rows: Sequence[Sequence[Any]], header: Sequence[str] = ("text", "label"), name: str = "t.csv") -> Path:
        path = tmp_path / name
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
        return path

    return write


@pytest.fixture(scope="session")
def judge(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned encoder, two seeds of it, with a random one beside each."""
    import bertgpt

    folder = tmp_path_factory.mktemp("judge")
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows_of()])
    options = QUICK | {"seeds": 2, "random_baseline": True, "max_steps": 8}
    bertgpt.finetune(str(folder / "t.csv"), model=str(bases["encoder"]), out=str(folder / "run"), **options)
    return folder / "run"


def saved_of(run: Path) -> Saved:
    from bertgpt.models import find

    return find(run)[0]
