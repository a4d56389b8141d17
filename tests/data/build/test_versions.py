"""Artifacts of another format version: refused with the command that writes them again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bertgpt
from bertgpt.utils.version import FORMAT_VERSION


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenized files, shards and a mask plan."""
    folder = tmp_path_factory.mktemp("artifacts")
    bertgpt.tokenize("tinyworld", out=str(folder / "tokens"), limit_docs=50, train_tokenizer="bpe", vocab_size=300)
    bertgpt.shard(str(folder / "tokens"), out=str(folder / "shards"), val_fraction=0)
    bertgpt.mask(str(folder / "shards"), out=str(folder / "plan"))
    return folder


READERS = {
    "tokens": (["inspect", "tokens"], ["shard", "tokens", "--out", "new"]),
    "shards": (
        ["inspect", "shards"],
        ["mask", "shards", "--out", "new"],
        ["shard", "--repair", "shards"],
        ["shard", "tokens", "--out", "shards"],
    ),
    "plan": (["inspect", "plan"], ["pretrain", "plan", "--preset", "tiny-bert", "--out", "new"]),
}
HINTS = {
    "tokens": "write it again: bertgpt tokenize ... --overwrite",
    "shards": "write it again: bertgpt shard ... --overwrite",
    "plan": "write it again: bertgpt mask ... --overwrite",
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("version", "message"),
    [(1, "written by an older bertgpt"), (99, "written by a newer bertgpt"), ("2", "written by a newer bertgpt")],
)
def test_another_format_version_is_refused(
    version: Any, message: str, kind: str, artifacts: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(artifacts)
    path = Path(kind, "manifest.json")
    manifest = path.read_text()
    assert json.loads(manifest)["version"] == FORMAT_VERSION
    path.write_text(json.dumps(json.loads(manifest) | {"version": version}))
    try:
        for argv in READERS[kind]:
            outcome = run(*argv, "--json")
            error = json.loads(outcome.out)["error"]
            assert (outcome.code, error["code"], error["message"]) == (3, "BG307", message), argv
            assert f"format version {version}; this version of bertgpt reads {FORMAT_VERSION}" in error["cause"]
            assert error["hint"] == (HINTS[kind] if version == 1 else "upgrade bertgpt to read it")
            assert error["path"].endswith(f"{kind}/manifest.json")
    finally:
        path.write_text(manifest)
    assert not Path("new").exists()
