"""Distributed training under torchrun: the same steps as one process, exact resume, errors of lost peers."""

import os
import shutil
import signal
import socket
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
from tests.fixtures.forkserver import ForkServer
from tests.fixtures.training import (
    SHORT_RUN,
    TrainingData,
    assert_identical_runs,
    flags,
    logged_metrics,
    with_tiny_preset,
)

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "bertgpt"]
INTERRUPTIBLE = SHORT_RUN | {
    "dropout": 0.1,
    "tokens_per_step": 512,
    "micro_batch_size": 4,
    "optimizer": "muon",
    "eval_every": 3,
}


def torchrun(source: str, out: Path, options: dict[str, Any], **env: str) -> subprocess.CompletedProcess[str]:
    argv = [*TORCHRUN, "pretrain", source, "--out", str(out), *flags(options)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=110, env=os.environ | env)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mlm", "hybrid", "clm"])
def test_two_ranks_take_the_same_steps_as_one(objective: str, training_data: TrainingData, tmp_path: Path) -> None:
    """Losses and the first gradient norm equal those of one process, which can also resume the run."""
    source, options = training_data[objective]
    options = with_tiny_preset(options) | SHORT_RUN
    if objective == "clm":  # with an NSP head, which gets no gradient
        options |= {"preset": "tiny-bert", "objective": "clm"}
    bertgpt.pretrain(source, out=str(tmp_path / "one"), **options)
    two = tmp_path / "two"
    done = torchrun(source, two, options)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("parameters in") == 1  # only the main rank prints
    one = logged_metrics(tmp_path / "one")

    def losses_match() -> bool:
        losses = zip(one, logged_metrics(two), strict=True)
        return all(a["loss"] == pytest.approx(b["loss"], abs=2e-5) for a, b in losses)

    first = logged_metrics(two)[0]
    assert one[0]["loss"] == pytest.approx(first["loss"], abs=1e-6)
    assert one[0]["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-6)
    assert losses_match()
    assert pretrained.load(two).objective == objective
    for removed in ("final", "checkpoints/step-00000012"):
        shutil.rmtree(two / removed)
    bertgpt.pretrain(source, out=str(two), **options)  # one process resumes from step 8
    assert losses_match()


@pytest.mark.slow
def test_interrupted_distributed_run_resumes_exactly(tiny_training_data: TrainingData, tmp_path: Path) -> None:
    """By SIGTERM to torchrun, then by SIGKILL of the main rank: the other rank exits too, and nothing is lost."""
    source, options = tiny_training_data["hybrid"]
    options = with_tiny_preset(options)
    uninterrupted, stopped = tmp_path / "uninterrupted", tmp_path / "stopped"
    assert torchrun(source, uninterrupted, options | INTERRUPTIBLE).returncode == 0

    argv = [*TORCHRUN, "pretrain", source, "--out", str(stopped), *flags(options | INTERRUPTIBLE)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(stopped / "metrics.jsonl", lines=3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    assert '"status": "interrupted"' in (stopped / "run.json").read_text()

    killed = torchrun(source, stopped, options | INTERRUPTIBLE, BERTGPT_FAULT="checkpoint.optim")
    assert killed.returncode != 0
    assert not (stopped / "final").exists()
    assert torchrun(source, stopped, options | INTERRUPTIBLE).returncode == 0
    assert_identical_runs(uninterrupted, stopped)


@pytest.mark.slow
def test_error_of_the_main_rank_is_printed_once(tiny_training_data: TrainingData, tmp_path: Path) -> None:
    """The other rank reports no internal error."""
    source, options = tiny_training_data["clm"]
    options = with_tiny_preset(options)
    bertgpt.pretrain(source, out=str(tmp_path / "run"), **(options | SHORT_RUN))
    done = torchrun(source, tmp_path / "run", options | SHORT_RUN | {"lr": 0.1})
    assert done.returncode != 0
    assert done.stderr.count("error[BG213]") == 1
    assert "BG101" not in done.stderr


def test_lost_peer_is_reported() -> None:
    for error in (RuntimeError("[gloo/transport/tcp] Connection closed by peer"), torch.distributed.DistError("gone")):
        with pytest.raises(BertGPTError) as caught, translate_peer_errors(DistContext(2, 1)):
            raise error
        assert caught.value.code == "BG411"
    with pytest.raises(RuntimeError, match="unrelated"), translate_peer_errors(DistContext(2, 1)):
        raise RuntimeError("unrelated")


def wait_for(file: Path, lines: int) -> None:
    """Wait until a file has so many lines."""
    deadline = time.monotonic() + 60
    while not file.exists() or file.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline, f"{file} did not appear"
        time.sleep(0.01)


OTHER_WEIGHTS = """
import torch
from bertgpt.training import init
init_weights = init.init_weights
init.init_weights = lambda model, generator: init_weights(model, torch.Generator().manual_seed(9))
"""


def test_ranks_start_from_the_weights_of_the_main_rank(
    tiny_training_data: TrainingData, forkserver: ForkServer, tmp_path: Path
) -> None:
    """Hosts of other kinds may initialize other bits: here the second rank does, and the losses stay the same."""
    source, options = tiny_training_data["clm"]
    options |= SHORT_RUN | {"max_steps": 3}
    losses = {}
    for name, code in (("same", ""), ("other", OTHER_WEIGHTS)):
        argv = ["pretrain", source, "--out", str(tmp_path / name), *flags(options)]
        env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
        ranks = [forkserver.popen(argv, env=env | {"RANK": str(rank)}, first=code if rank else "") for rank in (0, 1)]
        assert [rank.wait(60) for rank in ranks] == [0, 0], ranks[0].stderr.read()
        losses[name] = [line["loss"] for line in logged_metrics(tmp_path / name) if line["split"] == "train"]
    assert losses["same"] == losses["other"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
