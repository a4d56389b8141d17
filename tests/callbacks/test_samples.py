"""samples.txt: samples during training."""

import re
from pathlib import Path
from typing import Any

import pytest

import bertgpt
from bertgpt.trainer import Trainer
from tests.fixtures.training import SMALL_RUN, TrainingData, assert_identical_runs


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["clm", "mlm", "hybrid"])
def test_resumed_run_writes_the_same_samples(
    objective: str, tiny_training_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None twice, none missing; and sampling does not change training."""
    source, options = tiny_training_data[objective]
    run_options = SMALL_RUN | options | {"sample_every": 3}
    bertgpt.pretrain(source, out=str(tmp_path / "uninterrupted"), **run_options)
    train_step = Trainer.train_step

    def killed(trainer: Trainer, batch: Any) -> Any:
        if trainer.step == 7:
            raise RuntimeError("killed")
        return train_step(trainer, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            bertgpt.pretrain(source, out=str(tmp_path / "stopped"), **run_options | {"save_every": 4})
    before_resume = (tmp_path / "stopped" / "samples.txt").read_text(encoding="utf-8")
    bertgpt.pretrain(source, out=str(tmp_path / "stopped"), **run_options | {"save_every": 4})
    samples = (tmp_path / "uninterrupted" / "samples.txt").read_text(encoding="utf-8")
    assert (tmp_path / "stopped" / "samples.txt").read_text(encoding="utf-8") == samples
    assert samples.startswith(before_resume)
    assert re.findall("^======== step (.*)$", samples, re.M) == ["3", "6", "8"]
    assert "{" in samples or objective == "clm"
    bertgpt.pretrain(source, out=str(tmp_path / "plain"), **run_options | {"sample_every": 0})
    assert not (tmp_path / "plain" / "samples.txt").exists()
    assert_identical_runs(tmp_path / "plain", tmp_path / "uninterrupted")
