"""samples.txt: what a model says while it learns."""

import re
from pathlib import Path
from typing import Any

import pytest

import bertgpt
from bertgpt.trainer import Trainer
from tests.fixtures.training import SMALL, assert_same

Kinds = dict[str, tuple[str, dict[str, Any]]]


@pytest.mark.parametrize("kind", ["clm", "mlm", "hybrid"])
def test_a_run_that_was_killed_collects_the_same_samples(
    kind: str, few: Kinds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None twice, none missing; and to look changes nothing that is trained."""
    source, options = few[kind]
    how = SMALL | options | {"sample_every": 3}
    bertgpt.pretrain(source, out=str(tmp_path / "straight"), **how)
    step = Trainer.train_step

    def killed(trainer: Trainer, batch: Any) -> Any:
        if trainer.step == 7:
            raise RuntimeError("killed")
        return step(trainer, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            bertgpt.pretrain(source, out=str(tmp_path / "stopped"), **how | {"save_every": 4})
    before = (tmp_path / "stopped" / "samples.txt").read_text(encoding="utf-8")
    bertgpt.pretrain(source, out=str(tmp_path / "stopped"), **how | {"save_every": 4})
    found = (tmp_path / "straight" / "samples.txt").read_text(encoding="utf-8")
    assert (tmp_path / "stopped" / "samples.txt").read_text(encoding="utf-8") == found
    assert found.startswith(before)
    assert re.findall("^======== step (.*)$", found, re.M) == ["3", "6", "8"]
    assert "{" in found or kind == "clm"
    bertgpt.pretrain(source, out=str(tmp_path / "plain"), **how | {"sample_every": 0})
    assert not (tmp_path / "plain" / "samples.txt").exists()
    assert_same(tmp_path / "plain", tmp_path / "straight")
