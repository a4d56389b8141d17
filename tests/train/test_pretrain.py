"""Training: exact when it is interrupted, the same however it is divided, and refused where it cannot be."""

import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import bertgpt
from bertgpt import checkpoint, saved
from bertgpt.errors import BertGPTError
from bertgpt.optim import Schedule
from bertgpt.shards.format import read_manifest
from bertgpt.trainer import Trainer
from tests.conftest import Outcome

Run = Callable[..., Outcome]
SHORT = {"tokens_per_step": 512, "max_steps": 12, "log_every": 1, "eval_every": 5, "save_every": 4, "warmup": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and plans of tinyworld."""
    folder = tmp_path_factory.mktemp("pretrain")
    options = {"limit_docs": 600, "train": "bpe", "vocab_size": 400, "val_fraction": 0.1, "shard_tokens": 20_000}
    bertgpt.shard("tinyworld", out=str(folder / "shards"), **options)
    for pair in ("none", "nsp"):
        bertgpt.mask(str(folder / "shards"), out=str(folder / pair), seq_len=32, pair=pair)
    return folder


def kinds(data: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        "causal": (str(data / "shards"), {"preset": "tiny-gpt", "seq_len": 32}),
        "masked": (str(data / "nsp"), {"preset": "tiny-bert"}),
        "hybrid": (str(data / "none"), {"preset": "tiny-gpt", "objective": "hybrid", "documents": "apart"}),
    }


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "model.safetensors")


def deterministic(run: Path) -> list[dict[str, Any]]:
    """The lines of the log without what a clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "tokens_per_s")} for line in lines]


def same(one: Path, other: Path) -> bool:
    """Whether two runs came to the same, to the byte."""
    files = ["final/model.safetensors", "final/manifest.json", "metrics.json", "plots/train.tsv", "plots/val.tsv"]
    return all((one / f).read_bytes() == (other / f).read_bytes() for f in files) and deterministic(
        one
    ) == deterministic(other)


@pytest.mark.parametrize("kind", ["causal", "masked", "hybrid"])
def test_a_run_that_was_stopped_twice_ends_in_the_same_bytes(
    kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, and past the end of an epoch of a tiny plan."""
    source, options = kinds(data)[kind]
    options = options | SHORT | {"dropout": 0.1}
    bertgpt.pretrain(source, out=str(tmp_path / "straight"), **options)

    write = checkpoint.write
    for stop in (6, 9):

        def killed(*given: Any, stop: int = stop) -> Any:
            if given[1] >= stop:
                raise RuntimeError("killed")
            return write(*given)

        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "write", killed)
            with pytest.raises(RuntimeError, match="killed"):
                bertgpt.pretrain(source, out=str(tmp_path / "broken"), **options)
    bertgpt.pretrain(source, out=str(tmp_path / "broken"), **options)
    assert same(tmp_path / "straight", tmp_path / "broken")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_was_learned(
    signum: signal.Signals, code: int, data: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that is being taken is finished and saved; the same command ends in the same bytes."""
    source, options = kinds(data)["causal"]
    flags = [word for name, value in (options | SHORT).items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert run("pretrain", source, "--out", str(tmp_path / "straight"), *flags).code == 0
    step = Trainer.train_step

    def signalled(trainer: Trainer, batch: Any) -> Any:
        if trainer.step == 6:
            signal.raise_signal(signum)
        return step(trainer, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", signalled)
        done = run("pretrain", source, "--out", str(tmp_path / "stopped"), *flags)
    assert done.code == code
    assert "goes on from there" in done.err
    newest = checkpoint.newest(tmp_path / "stopped" / "checkpoints")
    assert newest is not None
    assert newest.name == "step-00000007"
    assert run("pretrain", source, "--out", str(tmp_path / "stopped"), *flags).code == 0
    assert same(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize("kind", ["causal", "masked", "hybrid"])
def test_micro_batches_change_nothing_but_rounding(kind: str, data: Path, tmp_path: Path) -> None:
    source, options = kinds(data)[kind]
    for name, micro in (("whole", 0), ("parts", 4)):
        bertgpt.pretrain(source, out=str(tmp_path / name), micro_batch=micro, **(options | SHORT | {"max_steps": 10}))
    one, other = deterministic(tmp_path / "whole"), deterministic(tmp_path / "parts")
    for a, b in zip(one, other, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-5)
    assert one[0]["grad_norm"] == pytest.approx(other[0]["grad_norm"], rel=1e-5)
    assert one[0]["loss"] == pytest.approx(other[0]["loss"], abs=1e-6)


def test_looking_and_saving_change_nothing(data: Path, tmp_path: Path) -> None:
    source, options = kinds(data)["masked"]
    options = options | SHORT | {"dropout": 0.1}
    bertgpt.pretrain(source, out=str(tmp_path / "often"), **(options | {"eval_every": 1, "save_every": 1}))
    bertgpt.pretrain(source, out=str(tmp_path / "seldom"), **(options | {"eval_every": 100, "save_every": 100}))
    one, other = weights(tmp_path / "often"), weights(tmp_path / "seldom")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_learns(data: Path, tmp_path: Path) -> None:
    """Far below the surprise of ids by their frequency, on documents it has not seen."""
    source, options = kinds(data)["causal"]
    options = options | SHORT | {"max_steps": 100, "tokens_per_step": 2048, "eval_every": 100, "warmup": 10}
    done = bertgpt.pretrain(source, out=str(tmp_path / "run"), **options)
    assert done["val_causal_loss"] < 4.2  # 5.3 by how frequent ids are
    split = read_manifest(data / "shards")["splits"]["val"]
    bits = done["val_causal_loss"] * (split["tokens"] - 1) / math.log(2) / split["bytes"]
    assert done["val_bits_per_byte"] == pytest.approx(bits)
    kept = saved.load(tmp_path / "run")
    assert kept.objective == "causal"
    assert "trained by bertgpt" in (tmp_path / "run" / "final" / "card.md").read_text()


def test_a_broken_checkpoint_is_passed_over(data: Path, tmp_path: Path, run: Run) -> None:
    source, options = kinds(data)["causal"]
    out = tmp_path / "run"
    bertgpt.pretrain(source, out=str(out), **(options | SHORT))
    shutil.copytree(out, tmp_path / "straight")
    shutil.rmtree(out / "final")
    newest = checkpoint.newest(out / "checkpoints")
    assert newest is not None
    (newest / "optim.safetensors").write_bytes(b"half")
    assert checkpoint.newest(out / "checkpoints") != newest
    bertgpt.pretrain(source, out=str(out), **(options | SHORT))
    assert same(tmp_path / "straight", out)
    assert len(list((out / "checkpoints").iterdir())) == checkpoint.KEPT


def test_what_is_refused(data: Path, tmp_path: Path, run: Run) -> None:
    shards, plan, out = str(data / "shards"), str(data / "nsp"), str(tmp_path / "run")

    def code(*argv: str) -> tuple[int, str]:
        done = run("pretrain", *argv, "--json")
        return done.code, json.loads(done.out)["error"]["code"]

    assert code(plan, "--preset", "tiny-gpt", "--out", out) == (2, "BG221")
    assert code(shards, "--preset", "tiny-bert", "--out", out) == (2, "BG221")
    assert code(plan, "--preset", "modern-bert-tiny", "--out", out) == (2, "BG221")
    assert code(shards, "--preset", "tiny-gtp", "--out", out) == (2, "BG209")
    assert code(shards, "--preset", "tiny-gpt", "--seq-len", "1024", "--out", out) == (2, "BG204")
    assert not Path(out).exists()
    short = ["--seq-len", "32", "--tokens-per-step", "256", "--max-steps", "2", "--out", out]
    assert run("pretrain", shards, "--preset", "tiny-gpt", *short).code == 0
    done = run("pretrain", shards, "--preset", "tiny-gpt", *short)
    assert "nothing to do" in done.err
    assert code(shards, "--preset", "tiny-gpt", *short, "--lr", "0.01") == (2, "BG213")
    changed = run("pretrain", shards, "--preset", "tiny-gpt", *short, "--lr", "0.01", "--fresh-if-changed")
    assert changed.code == 0
    assert "lr" in changed.err
    assert code(shards, "--preset", "tiny-gpt", *short[:-2], "--out", str(tmp_path / "x"), "--lr", "1e30")[1] == "BG501"
    with pytest.raises(BertGPTError, match="do not divide"):
        bertgpt.pretrain(shards, preset="tiny-gpt", out=out, seq_len=32, tokens_per_step=256, micro_batch=3)


def test_schedules() -> None:
    for kind in ("cosine", "linear", "wsd", "constant"):
        schedule = Schedule(kind, steps=100, warmup=10, peak=1.0, floor=0.1)
        rates = [schedule.rate(step) for step in range(101)]
        assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
        assert rates[10] == pytest.approx(1.0)
        assert rates[100] == pytest.approx(1.0 if kind == "constant" else 0.1)
        assert all(a >= b for a, b in pairwise(rates[10:]))
    assert Schedule("cosine", 110, 10, 1.0, 0.0).rate(60) == pytest.approx(0.5)
    assert Schedule("wsd", 110, 10, 1.0, 0.0).rate(89) == pytest.approx(1.0)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "bertgpt"]


@pytest.mark.parametrize("kind", ["masked", "hybrid"])
def test_two_processes_take_the_same_steps(kind: str, data: Path, tmp_path: Path) -> None:
    """Under torchrun itself; losses and the first gradient as in one process, which can also go on with the run."""
    source, options = kinds(data)[kind]
    options = options | SHORT
    bertgpt.pretrain(source, out=str(tmp_path / "one"), **options)
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    two = tmp_path / "two"
    done = subprocess.run([*TORCHRUN, "pretrain", source, "--out", str(two), *flags], capture_output=True, timeout=110)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(b"weights in") == 1  # one of them speaks
    one = deterministic(tmp_path / "one")

    def close() -> bool:
        losses = zip(one, deterministic(two), strict=True)
        return all(a["loss"] == pytest.approx(b["loss"], abs=2e-5) for a, b in losses)

    first = deterministic(two)[0]
    assert one[0]["loss"] == pytest.approx(first["loss"], abs=1e-6)
    assert one[0]["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-6)
    assert close()
    assert saved.load(two).objective == kind
    for ended in ("final", "checkpoints/step-00000012"):
        shutil.rmtree(two / ended)
    bertgpt.pretrain(source, out=str(two), **options)  # from step 8 on, alone
    assert close()
