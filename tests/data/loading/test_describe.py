"""`inspect` of mask plans and .bin files shows what training reads."""

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
    """Shards, a mask plan and .bin files."""
    import bertgpt

    folder = tmp_path_factory.mktemp("look")
    bertgpt.shard(
        "tinyworld", out=str(folder / "shards"), limit_docs=900, train_tokenizer=request.param, vocab_size=600
    )
    bertgpt.mask(str(folder / "shards"), out=str(folder / "plan"), seq_len=48, sentence_pairs="nsp")
    bertgpt.export(str(folder / "shards"), out=str(folder / "bin"))
    return folder


def test_rows_show_masked_tokens_and_replacements(folder: Path, run: Run) -> None:
    done = run("inspect", str(folder / "plan"), "--start", "5", "--docs", "4", "--json")
    rows = json.loads(done.out)["result"]["rows"]
    batch = open_mlm_dataset(folder / "plan", "train").batch(np.arange(5, 9), np.zeros(4, int))
    assert [row["number"] for row in rows] == [5, 6, 7, 8]
    assert [row["num_targets"] for row in rows] == batch.num_targets.tolist()
    tokenizer = load_tokenizer(folder / "plan" / "tokenizer")
    kinds = set()
    for i, row in enumerate(rows):
        masked = [span for span in row["spans"] if "masked" in span]
        assert len(masked) == row["num_targets"]
        positions, labels = batch.masked_positions[i].tolist(), batch.labels[i].tolist()
        for span, position, label in zip(masked, positions, labels, strict=False):
            input_id = int(batch.input_ids[i, position])
            assert span["text"].strip() == tokenizer.decode([label]).strip()
            kind = "mask" if input_id == tokenizer.roles["mask"] else "random" if input_id != label else "kept"
            assert span["masked"] == kind
            kinds.add(kind)
    assert "mask" in kinds
    text = run("inspect", str(folder / "plan"), "--start", "5", "--docs", "4").out
    marks = [mark for mark in re.findall(r"\{[^{}]*\}", text) if mark not in ("{token}", "{token>other}", "{token=}")]
    assert len(marks) == batch.num_targets.sum()
    assert f"{batch.num_targets[0]} masked" in text
    assert "[CLS]" in text
    assert re.search("row 5 of train · [0-9]+ tokens in 1 segment, (not )?next", text)


def test_single_row_of_the_validation_split(folder: Path, run: Run) -> None:
    done = run("inspect", str(folder / "plan"), "--doc", "1", "--split", "val", "--json")
    result = json.loads(done.out)["result"]
    assert [(row["number"], row["split"]) for row in result["rows"]] == [(1, "val")]
    assert "files" not in result
    none = run("inspect", str(folder / "plan"), "--doc", "100000", "--json")
    assert (none.code, json.loads(none.out)["error"]["code"]) == (2, "BG215")


def test_bin_documents(folder: Path, run: Run) -> None:
    """Documents are separated by end-of-text ids."""
    summary = json.loads(run("inspect", str(folder / "bin"), "--json").out)["result"]
    shards = read_manifest(folder / "shards")
    assert sum(file["tokens"] for file in summary["files"]) == sum(file["tokens"] for file in shards["files"])
    assert run("inspect", str(folder / "bin")).code == 0
    names = [file["path"] for file in shards["files"]]
    file = TokenFile(folder / "shards" / names[0])
    number = 0
    for entry in summary["files"]:  # the splits may stand in another order
        if entry["path"].startswith(names[0].partition("-")[0]):
            break
        number += sum(f["documents"] for f in shards["files"] if f["split"] == entry["split"])
    for row in (0, 1, len(file) - 1):
        done = run("inspect", str(folder / "bin"), "--doc", str(number + row), "--json")
        assert json.loads(done.out)["result"]["document"]["ids"] == file.row(row).tolist()
    assert run("inspect", str(folder / "bin"), "--doc", "901").code == 2
