"""Export of shards to .bin files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertgpt.data.format import TokenFile, read_manifest
from tests.conftest import Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def shards(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    options = ["--limit-docs", "900", "--train-tokenizer", "bpe", "--vocab-size", "500", "--shard-tokens", "20k"]
    assert run("shard", "tinyworld", *options, "--val-fraction", "0.1", "--out", "shards").code == 0
    return tmp_path / "shards"


def test_bin_file_is_the_token_stream(shards: Path, run: Run) -> None:
    result = run("export", "shards", "--out", "bin")
    assert result.code == 0, result.err
    manifest = read_manifest(shards)
    assert len(manifest["files"]) > 3
    for split in ("train", "val"):
        tokens = np.memmap(f"bin/{split}.bin", dtype=np.uint16, mode="r")
        files = [shards / file["path"] for file in manifest["files"] if file["split"] == split]
        assert np.array_equal(tokens, np.concatenate([TokenFile(path).flat for path in files]))
        assert len(tokens) == manifest["splits"][split]["tokens"]
        x, y = tokens[10:74].astype(np.int64), tokens[11:75].astype(np.int64)  # as nanoGPT's get_batch slices it
        assert (x[1:] == y[:-1]).all()


def test_existing_export_is_reused_or_needs_overwrite(shards: Path, run: Run) -> None:
    assert run("export", "shards", "--out", "bin").code == 0
    again = run("export", "shards", "--out", "bin")
    assert (again.code, "nothing to do" in again.err) == (0, True)
    assert run("shard", "shards", "--out", "bin").code == 2
    options = ["--limit-docs", "500", "--tokenizer", "shards/tokenizer"]
    assert run("shard", "tinyworld", *options, "--out", "others").code == 0
    assert run("export", "others", "--out", "bin").code == 2
    assert run("export", "others", "--out", "bin", "--overwrite").code == 0


def test_only_valid_shards_can_be_exported(shards: Path, run: Run) -> None:
    options = ["--limit-docs", "100", "--tokenizer", "shards/tokenizer"]
    assert run("tokenize", "tinyworld", *options, "--out", "tokens").code == 0
    result = run("export", "tokens", "--out", "bin")
    assert (result.code, "is tokenized files, not shards" in result.err) == (2, True)
    assert run("export", "nowhere", "--out", "bin").code == 3
    (shards / "train-00000.arrow").write_bytes(b"")
    assert run("export", "shards", "--out", "bin").code == 3
    assert not Path("bin").exists()
