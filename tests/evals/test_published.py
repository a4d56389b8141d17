"""Published suites, read by the real client from a small local hub at the pinned commits."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.evals.suites import PUBLISHED, normalize_item
from bertgpt.evals.tasks import TASKS
from tests.fixtures.hub_server import Dataset, Hub, serve_hub
from tests.fixtures.models import save_random_model


def parquet(**columns: list[Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def blimp_of(names: list[str]) -> dict[str, bytes]:
    """A dataset with a subset for each name, listed in its README."""
    configs = "".join(f"- config_name: {n}\n  data_files:\n  - split: train\n    path: {n}/train-*\n" for n in names)
    files = {"README.md": f"---\nconfigs:\n{configs}---\n".encode()}
    for name in names:
        pairs = {"sentence_good": ["She was glad.", "He is."], "sentence_bad": ["She were glad.", "He are."]}
        files[f"{name}/train-00000-of-00001.parquet"] = parquet(**pairs, UID=[name] * 2, linguistics_term=["x"] * 2)
    return files


@pytest.fixture
def hub() -> Iterator[Hub]:
    sets = {
        "hellaswag": {
            "data/validation-00000-of-00001.parquet": parquet(
                activity_label=["Roof", "Dog"], ctx_a=["A man sits [title] there.", "A dog barks."], ctx_b=["he", ""],
                endings=[["a", "b", "c", "d"]] * 2, label=["3", "0"],
            )
        },
        "blimp": blimp_of(["one", "two"]),
        "lambada": {"data/test-00000-of-00001.parquet": parquet(text=["She found a purse", "It was a fine day"])},
        "agnews": {
            f"data/{split}-00000-of-00001.parquet": parquet(text=["rain", "a purse"] * 20, label=[0, 1] * 20)
            for split in ("train", "test")
        },
    }  # fmt: skip
    with serve_hub() as served:
        for suite, files in sets.items():
            published = PUBLISHED.get(suite, TASKS["agnews"])
            served.datasets[published.repository] = Dataset(files, commit=published.revision)
        yield served


def test_hellaswag_is_scored_without_markup() -> None:
    """As lm-evaluation-harness prepares the published layout: contexts and endings."""
    row = {
        "activity_label": "Roofing [header]", "ctx_a": "Lift the tiles [title] Then  [step] wait. [substeps] Rest.",
        "ctx_b": "the Roof", "endings": ["[substeps] Dry it. [title] Look.", " is  dry", "ends."], "label": "2",
    }  # fmt: skip
    assert normalize_item("hellaswag", row) == {
        "context": "Roofing : Lift the tiles. Then  wait. Rest. The roof",
        "endings": [" Dry it.. Look.", "is dry", "ends."],
        "label": 2,
    }


def test_limit_takes_items_of_each_blimp_paradigm(hub: Hub, tokenizer: Tokenizer, process: Any, tmp_path: Path) -> None:
    """From the hub and from a file alike."""
    save_random_model(tmp_path / "gpt", "gpt2", tokenizer)
    lines = [{"sentence_good": "He is.", "sentence_bad": "He are.", "UID": uid, "linguistics_term": "x"}
             for uid in ("one", "one", "two", "two")]  # fmt: skip
    (tmp_path / "blimp.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    argv = ["eval", "blimp", "--model", str(tmp_path / "gpt"), "--limit", "3"]
    for name, given in (("hub", []), ("file", ["--data", str(tmp_path)])):
        done = process(*argv, *given, "--out", str(tmp_path / name), env=hub.environment(tmp_path), cwd=tmp_path)
        assert done.code == 0, done.err
        assert pq.read_table(tmp_path / name / "blimp.items.parquet")["UID"].to_pylist() == ["one", "two", "one"]


@pytest.mark.parametrize(("suite", "n"), [("hellaswag", 2), ("blimp", 4), ("lambada", 2), ("agnews", 40)])
def test_suite_is_read_from_the_hub(
    suite: str, n: int, hub: Hub, tokenizer: Tokenizer, process: Any, tmp_path: Path
) -> None:
    save_random_model(tmp_path / "gpt", "gpt2", tokenizer)
    argv = ["eval", suite, "--model", str(tmp_path / "gpt"), "--out", str(tmp_path / "results"), "--json"]
    done = process(*argv, env=hub.environment(tmp_path), cwd=tmp_path)
    assert done.code == 0, done.err
    [result] = json.loads(done.out)["result"]["results"]
    assert result["n"] == n
    published = PUBLISHED.get(suite, TASKS["agnews"])
    assert result["metadata"]["data"] == {published.repository: published.revision}
