"""Several processes under torchrun itself: the same steps as one, exact when they are interrupted, all or none."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import bertgpt
from bertgpt.hub import pretrained
from bertgpt.training.distributed import DistContext, translate_peer_errors
from bertgpt.utils.errors import BertGPTError
from tests.fixtures.training import SHORT, assert_same, deterministic, flags

Kinds = dict[str, tuple[str, dict[str, Any]]]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "bertgpt"]
HARD = SHORT | {"dropout": 0.1, "tokens_per_step": 512, "micro_batch_size": 4, "optimizer": "muon", "eval_every": 3}


def torchrun(source: str, out: Path, options: dict[str, Any], **env: str) -> subprocess.CompletedProcess[str]:
    argv = [*TORCHRUN, "pretrain", source, "--out", str(out), *flags(options)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=110, env=os.environ | env)


@pytest.mark.parametrize("kind", ["mlm", "hybrid", "clm"])
def test_two_processes_take_the_same_steps(kind: str, kinds: Kinds, tmp_path: Path) -> None:
    """Losses and the first gradient are those of one process, which can also go on with the run."""
    source, options = kinds[kind]
    options = options | SHORT
    if kind == "clm":  # with heads for pairs, which get no gradient
        options |= {"preset": "tiny-bert", "objective": "clm"}
    bertgpt.pretrain(source, out=str(tmp_path / "one"), **options)
    two = tmp_path / "two"
    done = torchrun(source, two, options)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("weights in") == 1  # one of them speaks
    one = deterministic(tmp_path / "one")

    def close() -> bool:
        losses = zip(one, deterministic(two), strict=True)
        return all(a["loss"] == pytest.approx(b["loss"], abs=2e-5) for a, b in losses)

    first = deterministic(two)[0]
    assert one[0]["loss"] == pytest.approx(first["loss"], abs=1e-6)
    assert one[0]["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-6)
    assert close()
    assert pretrained.load(two).objective == kind
    for ended in ("final", "checkpoints/step-00000012"):
        shutil.rmtree(two / ended)
    bertgpt.pretrain(source, out=str(two), **options)  # from step 8 on, alone
    assert close()


def test_two_processes_that_were_stopped(few: Kinds, tmp_path: Path) -> None:
    """By SIGTERM to torchrun, then by kill -9 of the one that writes: the others end too, and nothing is lost."""
    source, options = few["hybrid"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert torchrun(source, straight, options | HARD).returncode == 0

    argv = [*TORCHRUN, "pretrain", source, "--out", str(stopped), *flags(options | HARD)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(stopped / "metrics.jsonl", lines=3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    assert '"status": "interrupted"' in (stopped / "run.json").read_text()

    killed = torchrun(source, stopped, options | HARD, BERTGPT_FAULT="checkpoint.optim")
    assert killed.returncode != 0
    assert not (stopped / "final").exists()
    assert torchrun(source, stopped, options | HARD).returncode == 0
    assert_same(straight, stopped)


def test_what_one_process_says_is_said_once(few: Kinds, tmp_path: Path) -> None:
    """The one that leads refuses; the other does not take that for a bug of ours."""
    source, options = few["clm"]
    bertgpt.pretrain(source, out=str(tmp_path / "run"), **(options | SHORT))
    done = torchrun(source, tmp_path / "run", options | SHORT | {"lr": 0.1})
    assert done.returncode != 0
    assert done.stderr.count("error[BG213]") == 1
    assert "BG101" not in done.stderr


def test_a_process_that_is_left_alone_says_so() -> None:
    for error in (RuntimeError("[gloo/transport/tcp] Connection closed by peer"), torch.distributed.DistError("gone")):
        with pytest.raises(BertGPTError) as said, translate_peer_errors(DistContext(2, 1)):
            raise error
        assert said.value.code == "BG411"
    with pytest.raises(RuntimeError, match="ours"), translate_peer_errors(DistContext(2, 1)):
        raise RuntimeError("a bug of ours")


def wait_for(file: Path, lines: int) -> None:
    """Until a file has so many lines."""
    end = time.monotonic() + 60
    while not file.exists() or file.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < end, f"{file} never came"
        time.sleep(0.01)
