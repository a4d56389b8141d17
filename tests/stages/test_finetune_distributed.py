"""Fine-tuning under torchrun."""

import os
import subprocess
from pathlib import Path

import pytest

import bertgpt
from tests.fixtures.finetuning import QUICK, Sheet, labeled_texts
from tests.fixtures.training import flags, logged_metrics
from tests.training.test_distributed import TORCHRUN


@pytest.mark.slow
def test_two_ranks_train_the_same_model(bases: dict[str, Path], sheet: Sheet, tmp_path: Path) -> None:
    """Each rank reads its half of every batch; rank 0 evaluates, writes and prints."""
    file, options = str(sheet(labeled_texts())), QUICK | {"dropout": 0.0}
    bertgpt.finetune(file, model=str(bases["bert"]), out=str(tmp_path / "one"), **options)
    del options["random_baseline"]
    argv = ["finetune", file, "--model", str(bases["bert"]), "--out", str(tmp_path / "two"), "--no-random-baseline"]
    done = subprocess.run(
        [*TORCHRUN, *argv, *flags(options)], capture_output=True, text=True, timeout=110, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("model with") == 1
    losses = [[line["loss"] for line in logged_metrics(tmp_path / name / "seed-1337")] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert (tmp_path / "two" / "metrics.json").exists()
