"""Untrusted models: none of their code runs, and nothing is allocated or printed just because they say so."""

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bertgpt
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from tests.fixtures.models import save_random_model

Run = Callable[..., Any]
HOSTILE = "<script>alert(1)</script>\x1b[31m[bold]"


class Canary:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "run")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickles_are_not_loaded(name: str, run: Run, tmp_path: Path) -> None:
    evil, canary = tmp_path / "evil", tmp_path / "canary"
    evil.mkdir()
    (evil / name).write_bytes(pickle.dumps(Canary(canary)))
    (evil / "config.json").write_text('{"model_type": "gpt2"}')
    for argv in (
        ["import", str(evil), "--out", str(tmp_path / "a")],
        ["generate", "--model", str(evil)],
        ["eval", "lm", "--model", str(evil), "--data", "tinyworld"],
        ["report", str(evil), "--out", str(tmp_path / "r.html")],
        ["generate", "--model", str(evil / name)],
    ):
        done = run(*argv)
        assert done.code in (2, 3), done.err
        assert "BG101" not in done.err
        assert not canary.exists()


@pytest.mark.parametrize("where", ["header", "shape", "offsets", "config", "layers"])
def test_claimed_sizes_are_not_allocated(where: str, run: Run, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Sizes of the header, of tensors and of the config that the file does not have."""
    save_random_model(tmp_path / "run", "gpt2", tokenizer)
    bertgpt.export(str(tmp_path / "run"), out=str(tmp_path / "hf"))
    weights, config = tmp_path / "hf" / "model.safetensors", tmp_path / "hf" / "config.json"
    claims = {
        "header": struct.pack("<Q", 1 << 60) + b"{}",
        "shape": serialize({"a": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 4]}}, b"\0" * 4),
        "offsets": serialize({"a": {"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 1 << 32]}}, b"\0" * 4),
    }
    if where in claims:
        weights.write_bytes(claims[where])
    else:
        hf_config = json.loads(config.read_text())
        hf_config |= {"n_embd": 1 << 24, "n_head": 1} if where == "config" else {"n_layer": 1 << 40}
        config.write_text(json.dumps(hf_config))
    done = run("import", str(tmp_path / "hf"), "--out", str(tmp_path / "a"))
    assert (done.code, "error[BG318]" in done.err) == (3, True), done.err


def serialize(header: dict[str, Any], data: bytes) -> bytes:
    """A safetensors file with this header and data."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_tokens_are_escaped_in_terminal_and_report(run: Run, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A vocabulary may hold any text; control characters and markup in generated text are escaped."""
    folder = tmp_path / "run"
    save_random_model(folder, "gpt2", with_token(tokenizer, tmp_path))
    done = run("generate", "--model", str(folder), "--prompt", HOSTILE, "--max-new-tokens", "4")
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    assert "\\x1b" in done.out
    done = run("report", str(folder), "--out", str(tmp_path / "r.html"))
    assert done.code == 0, done.err
    page = (tmp_path / "r.html").read_text()
    assert "\x1b" not in page
    assert page.count("<script>") == 1  # of the report itself


def with_token(tokenizer: Tokenizer, tmp_path: Path) -> Tokenizer:
    """The same tokenizer with an added token of hostile text."""
    shutil.rmtree(tmp_path / "tokenizer", ignore_errors=True)
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(tmp_path / "tokenizer")
    file = tmp_path / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    extra = tokenizer.max_id + 1
    content["added_tokens"].append(
        {"id": extra, "content": HOSTILE, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": False}
    )  # fmt: skip
    file.write_text(json.dumps(content))
    return load_tokenizer(tmp_path / "tokenizer")
