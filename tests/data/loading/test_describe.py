"""`inspect` on plans and flat files: what stands there is what training gets."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertgpt.data.format import TokenFile, read_manifest
from bertgpt.data.loading.mlm import open_mlm_dataset
from bertgpt.data.tokenizers.load import load_tokenizer
from tests.conftest import Outcome

Run = Callable[..., Outcome]


@pytest.fixture(scope="module", params=["bpe", "wordpiece"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a plan and flat files."""
    import bertgpt

    folder = tmp_path_factory.mktemp("look")
    bertgpt.shard(
        "tinyworld", out=str(folder / "shards"), limit_docs=900, train_tokenizer=request.param, vocab_size=600
    )
    bertgpt.mask(str(folder / "shards"), out=str(folder / "plan"), seq_len=48, sentence_pairs="nsp")
    bertgpt.export(str(folder / "shards"), out=str(folder / "bin"))
    return folder


def test_a_row_shows_what_is_hidden_and_what_stands_there(folder: Path, run: Run) -> None:
    done = run("inspect", str(folder / "plan"), "--start", "5", "--docs", "4", "--json")
    rows = json.loads(done.out)["result"]["rows"]
    batch = open_mlm_dataset(folder / "plan", "train").batch(np.arange(5, 9), np.zeros(4, int))
    assert [row["number"] for row in rows] == [5, 6, 7, 8]
    assert [row["scored"] for row in rows] == batch.scored.tolist()
    tokenizer = load_tokenizer(folder / "plan" / "tokenizer")
    kinds = set()
    for i, row in enumerate(rows):
        hidden = [segment for segment in row["segments"] if "hidden" in segment]
        assert len(hidden) == row["scored"]
        for segment, at, label in zip(hidden, batch.positions[i].tolist(), batch.labels[i].tolist(), strict=False):
            now = int(batch.ids[i, at])
            assert segment["text"].strip() == tokenizer.decode([label]).strip()
            kind = "mask" if now == tokenizer.roles["mask"] else "other" if now != label else "kept"
            assert segment["hidden"] == kind
            kinds.add(kind)
    assert "mask" in kinds
    text = run("inspect", str(folder / "plan"), "--start", "5", "--docs", "4").out
    marks = [mark for mark in re.findall(r"\{[^{}]*\}", text) if mark not in ("{was}", "{was>other}", "{was=}")]
    assert len(marks) == batch.scored.sum()
    assert f"{batch.scored[0]} hidden" in text
    assert "[CLS]" in text
    assert re.search("row 5 of train · [0-9]+ tokens in 1 piece, (not )?next", text)


def test_one_row_of_the_validation(folder: Path, run: Run) -> None:
    done = run("inspect", str(folder / "plan"), "--doc", "1", "--split", "val", "--json")
    result = json.loads(done.out)["result"]
    assert [(row["number"], row["split"]) for row in result["rows"]] == [(1, "val")]
    assert "files" not in result
    none = run("inspect", str(folder / "plan"), "--doc", "100000", "--json")
    assert (none.code, json.loads(none.out)["error"]["code"]) == (2, "BG215")


def test_flat_files(folder: Path, run: Run) -> None:
    """A document is found by the end ids."""
    whole = json.loads(run("inspect", str(folder / "bin"), "--json").out)["result"]
    shards = read_manifest(folder / "shards")
    assert sum(file["tokens"] for file in whole["files"]) == sum(file["tokens"] for file in shards["files"])
    assert run("inspect", str(folder / "bin")).code == 0
    names = [file["path"] for file in shards["files"]]
    file = TokenFile(folder / "shards" / names[0])
    number = 0
    for entry in whole["files"]:  # the splits may stand in another order
        if entry["path"].startswith(names[0].partition("-")[0]):
            break
        number += sum(f["documents"] for f in shards["files"] if f["split"] == entry["split"])
    for row in (0, 1, len(file) - 1):
        done = run("inspect", str(folder / "bin"), "--doc", str(number + row), "--json")
        assert json.loads(done.out)["result"]["document"]["ids"] == file.row(row).tolist()
    assert run("inspect", str(folder / "bin"), "--doc", "901").code == 2
