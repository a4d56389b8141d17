"""A small model of each kind, on the disk as runs are."""

from pathlib import Path

import pytest

from bertgpt import saved
from bertgpt.saved import Saved
from bertgpt.tokens.tokenizer import Tokenizer
from tests.made import written


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """runs/gpt, runs/bert, runs/modern and runs/both, which has the weights of gpt and learned with masks too."""
    folder = tmp_path_factory.mktemp("models") / "runs"
    for name, family in (("gpt", "gpt2"), ("bert", "bert"), ("modern", "decoder")):
        kept = written(folder / name, family, tokenizer)
        (folder / name / "config.yaml").write_text("version: 1\n")
        if name == "gpt":
            both = Saved(kept.model, tokenizer, "hybrid")
            saved.save(both, folder / "both" / "final", "# both\n")
    return folder
