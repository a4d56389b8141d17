"""JSON that is damaged or hostile is a designed error in every file that commands read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.training.logger import JsonlLogger
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.json_files import parse_json, read_json_object

DAMAGED = {"deep": "[" * 100_000, "list": "[1]", "cut": '{"a": ', "not UTF-8": "\udcff", "empty": ""}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_object(damage: str, tmp_path: Path) -> None:
    (path := tmp_path / "x.json").write_bytes(DAMAGED[damage].encode(errors="surrogateescape"))
    with pytest.raises(BertGPTError) as error:
        read_json_object(path, "BG318", "this file")
    assert (error.value.code, error.value.path) == ("BG318", str(path))
    if damage == "deep":
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(DAMAGED[damage])


@pytest.mark.parametrize("line", [*DAMAGED.values(), '{"step": 1}', '{"step": "x", "split": "val"}'])
def test_damaged_metrics_name_the_line(line: str, tmp_path: Path) -> None:
    good = '{"step": 1, "split": "train", "loss": 2.0}\n'
    (path := tmp_path / "metrics.jsonl").write_bytes((good + line + "\n").encode(errors="surrogateescape"))
    with pytest.raises(BertGPTError) as error:
        JsonlLogger(path).read()
    assert (error.value.code, error.value.path) == ("BG302", f"{path}:2")


@pytest.mark.parametrize("bad", [1 << 28, -1, 2.5, "7", None, True])
def test_impossible_token_ids(bad: Any, tokenizer: Tokenizer, tmp_path: Path, run: Callable[..., Any]) -> None:
    """Before memory is reserved for the largest one."""
    tokenizer.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["zz"] = bad
    file.write_text(json.dumps(content))
    with pytest.raises(BertGPTError, match="invalid token id") as error:
        load_tokenizer(tmp_path)
    assert error.value.code == "BG314"
