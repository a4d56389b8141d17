"""Small data to train on, and ways to say that two runs are the same."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import bertgpt
from bertgpt.trainer import Trainer
from tests.conftest import Outcome

# fp32 on the CPU, so that what is compared here does not depend on the machine.
PLAIN = {"precision": "fp32", "device": "cpu"}
SHORT = PLAIN | {
    "tokens_per_step": 256, "max_steps": 12, "log_every": 1, "eval_every": 5, "save_every": 4, "warmup": 3,
    "optimizer": "adamw", "lr": 2e-3, "schedule": "cosine", "lr_floor": 0.1,
}  # fmt: skip

SMALL = PLAIN | {
    "preset": "tiny-gpt", "seq_len": 32, "tokens_per_step": 128, "max_steps": 8, "warmup": 2, "dropout": 0.1,
    "log_every": 1, "eval_every": 3, "save_every": 2, "optimizer": "adamw", "lr": 2e-3, "schedule": "cosine",
    "lr_floor": 0.1,
}  # fmt: skip


@dataclass
class Example:
    """A run of eight steps in half a second, and the same run stopped before its sixth step."""

    source: str
    straight: Path
    stopped: Path  # with checkpoints of steps 2 and 4

    def argv(self, out: Path, **changed: Any) -> list[str]:
        """The command that makes it."""
        return ["pretrain", self.source, "--out", str(out), *flags(SMALL | changed)]

    def make(self, out: Path) -> None:
        """The same, from Python."""
        bertgpt.pretrain(self.source, out=str(out), **SMALL)


@pytest.fixture(scope="session")
def example(few: dict[str, tuple[str, dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory) -> Example:
    """Training that was never disturbed, and training that was killed."""
    source, folder = few["causal"][0], tmp_path_factory.mktemp("example")
    found = Example(source, folder / "straight", folder / "stopped")
    found.make(found.straight)
    step = Trainer.train_step

    def killed(trainer: Trainer, batch: Any) -> Any:
        if trainer.step == 5:
            raise RuntimeError("killed")
        return step(trainer, batch)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "train_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            found.make(found.stopped)
    return found


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and plans of tinyworld."""
    folder = tmp_path_factory.mktemp("pretrain")
    options = {"limit_docs": 600, "train": "bpe", "vocab_size": 400, "val_fraction": 0.02, "shard_tokens": 20_000}
    bertgpt.shard("tinyworld", out=str(folder / "shards"), **options)
    for pair in ("none", "nsp"):
        bertgpt.mask(str(folder / "shards"), out=str(folder / pair), seq_len=32, pair=pair)
    return folder


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, dict[str, Any]]]:
    """The same kinds, on so little text that a short run goes through it twice."""
    folder = tmp_path_factory.mktemp("few")
    options = {"limit_docs": 24, "train": "bpe", "vocab_size": 400, "val_fraction": 0.4, "shard_tokens": 20_000}
    bertgpt.shard("tinyworld", out=str(folder / "shards"), **options)
    for pair in ("none", "nsp"):
        bertgpt.mask(str(folder / "shards"), out=str(folder / pair), seq_len=32, pair=pair)
    return of_each_kind(folder)


@pytest.fixture(scope="session")
def kinds(corpus: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """What is trained on what."""
    return of_each_kind(corpus)


def of_each_kind(folder: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        "causal": (str(folder / "shards"), {"preset": "tiny-gpt", "seq_len": 32}),
        "masked": (str(folder / "nsp"), {"preset": "tiny-bert"}),
        "hybrid": (str(folder / "none"), {"preset": "tiny-gpt", "objective": "hybrid", "documents": "apart"}),
    }


def flags(options: dict[str, Any]) -> list[str]:
    """Options as they are typed."""
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights of a finished run."""
    return load_file(run / "final" / "model.safetensors")


def deterministic(run: Path) -> list[dict[str, Any]]:
    """The lines of the log without what a clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "tokens_per_s")} for line in lines]


def files_of(run: Path) -> dict[str, bytes]:
    """Every file that two runs of the same have in common, the last checkpoint among them."""
    last = max((run / "checkpoints").glob("step-*"))
    whole = [*(run / "final").rglob("*"), *(run / "plots").iterdir(), run / "metrics.json", *last.iterdir()]
    return {str(path.relative_to(run)): path.read_bytes() for path in whole if path.is_file()}


def assert_same(one: Path, other: Path) -> None:
    """Two runs came to the same, to the byte: weights, moments, figures."""
    ours, theirs = files_of(one), files_of(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert deterministic(one) == deterministic(other)


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Outcome]]:
    """Run a command line in a process of its own, which may be killed: a fork of one that has torch already, since to
    import it takes longer than such a run. `first` is done there before."""
    program = """if True:
        import json, os, sys
        from bertgpt import cli, pretraining
        os.fsync = lambda handle: None
        for line in sys.stdin:
            request = json.loads(line)
            child = os.fork()
            if child == 0:
                for stream in (1, 2):
                    os.dup2(os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
                os.environ |= request["env"]
                exec(request["first"])
                os._exit(cli.run(request["argv"]))
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        """
    server = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert server.stdin is not None
    assert server.stdout is not None
    into, out, numbers = server.stdin, server.stdout, count()
    folder = tmp_path_factory.mktemp("said")

    def running(argv: list[str], first: str = "", **env: str) -> Outcome:
        said = folder / str(next(numbers))
        into.write(json.dumps({"argv": argv, "first": first, "env": env, "said": str(said)}) + "\n")
        code = int(out.readline())
        return Outcome(code, "", said.read_text(encoding="utf-8"))

    yield running
    into.close()
    server.wait()


def content(run: Path) -> dict[str, bytes]:
    """Every file of a run."""
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def status(run: Path) -> str:
    said: str = json.loads((run / "run.json").read_text())["status"]
    return said
