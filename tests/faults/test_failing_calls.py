"""Kill every command at its Nth file-system call, and let that call fail, as on a full or a broken disk.

Then the command is run again: it must end in the files of an undisturbed run, the same bytes and no others. A failed
call is reported as the disk's fault, not as a bug, and what is published is never incomplete.
"""

import csv
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bertgpt
from bertgpt.training.logger import TIMING_KEYS
from tests.fixtures import forkserver as forking
from tests.fixtures.finetuning import labeled_texts
from tests.fixtures.forkserver import FOLDER, ForkServer
from tests.fixtures.training import flags

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(600)]
POINTS = int(os.environ.get("BERTGPT_FAULT_POINTS", "40"))  # of each command and fault
FAULTS = {"kill": 0, "full disk": errno.ENOSPC, "broken disk": errno.EIO}
RUN = {"max_steps": 4, "save_every": 2, "eval_every": 2, "log_every": 1, "tokens_per_step": 128, "seed": 1}
TRAINING = flags(RUN | {"precision": "fp32", "device": "cpu", "warmup": 1})
CPU = ["--precision", "fp32", "--device", "cpu"]
COMMANDS: dict[str, list[str]] = {
    "shard": [
        "shard", "texts.jsonl", "--train-tokenizer", "bpe", "--vocab-size", "300", "--shard-tokens", "2000",
        "--val-fraction", "0.1",
    ],
    "tokenize": ["tokenize", "texts.jsonl", "--tokenizer", "shards/tokenizer"],
    "mask": ["mask", "shards", "--seq-len", "32"],
    "pretrain clm": ["pretrain", "shards", "--preset", "test-gpt", "--seq-len", "32", *TRAINING],
    "pretrain mlm": ["pretrain", "masks", "--preset", "test-bert", *TRAINING],
    "pretrain hybrid": ["pretrain", "masks", "--preset", "test-gpt", "--objective", "hybrid", *TRAINING],
    "finetune": [
        "finetune", "labels.csv", "--model", "run", "--max-steps", "3", "--eval-every", "2", "--batch-size", "8", *CPU,
    ],
    "import": ["import", "hf"],
    "export": ["export", "run"],
    "export bin": ["export", "shards"],
    "eval": ["eval", "lm", "--model", "run", "--data", "texts.jsonl", "--limit", "10", *CPU],
    "report": ["report", "run"],
}  # fmt: skip
CHANGING = (  # in each run: times, hosts, logs; compared by name only
    "run.json", "lm.run.json", "labels.csv.run.json", "log.txt", "run.lock", "page.html", "lock",
)  # fmt: skip
TIMING = re.compile(rf'"({"|".join(TIMING_KEYS)}|seconds)": ?[^,}}]+'.encode())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, labels, shards, a mask plan, a run and its export, all small."""
    folder = tmp_path_factory.mktemp("inputs")
    documents = [{"text": f"{text} {text} Then it was {i} again."} for i, (text, _) in enumerate(labeled_texts(120))]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *labeled_texts()])
    shards, run = str(folder / "shards"), str(folder / "run")
    bertgpt.shard(
        str(folder / "texts.jsonl"), train_tokenizer="bpe", vocab_size=300, val_fraction=0.1, shard_tokens=2000,
        out=shards,
    )  # fmt: skip
    bertgpt.mask(shards, seq_len=32, sentence_pairs="none", out=str(folder / "masks"))
    options = {**RUN, "preset": "test-gpt", "seq_len": 32, "precision": "fp32", "device": "cpu", "warmup": 1}
    bertgpt.pretrain(shards, out=run, **options)
    bertgpt.export(run, out=str(folder / "hf"))
    return folder


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """A fork server whose processes can be told to fail."""
    library, before = tmp_path_factory.mktemp("library") / "failing_calls.so", os.environ.get(FOLDER, "")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = Path(__file__).with_name("failing_calls.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    server = ForkServer(forking.new_folder(), no_sync="", env={"LD_PRELOAD": str(library)})
    os.environ[FOLDER] = before
    yield server
    forking.stop(server.folder)
    os.environ[FOLDER] = before


class Case:
    """A command in a folder of its own."""

    def __init__(self, name: str, inputs: Path, server: ForkServer, folder: Path) -> None:
        self.name, self.inputs, self.server, self.folder = name, inputs, server, folder
        self.cwd, self.calls = folder / "cwd", folder / "calls"
        out = "page.html" if name == "report" else "results/run" if name == "eval" else "out"
        self.argv = [*COMMANDS[name], "--out", out, "--json"]

    def reset(self) -> None:
        """The inputs, and nothing else."""
        shutil.rmtree(self.cwd, ignore_errors=True)
        shutil.copytree(self.inputs, self.cwd)

    def run(self, nth: int = 0, fault: int = 0) -> tuple[int, str, str]:
        """Run the command; its `nth` call meets the fault."""
        self.calls.write_bytes(bytes(8))
        arguments = f"{os.fsencode(self.calls)}, ctypes.c_long({nth}), {fault}, {os.fsencode(self.cwd)}"
        first = f"import ctypes\nctypes.CDLL(None).arm_fault({arguments})"
        env = {"XDG_CACHE_HOME": str(self.folder / "cache"), "LD_PRELOAD": None}
        return self.server.run(self.argv, first=first, cwd=self.cwd, env=env)

    @property
    def num_calls(self) -> int:
        return int.from_bytes(self.calls.read_bytes(), "little")

    def files(self) -> dict[str, str]:
        """The hash of every file, without what differs in each run."""
        found = {}
        for path in sorted(self.cwd.rglob("*")):
            content = b"" if path.is_dir() or path.name in CHANGING else path.read_bytes()
            content = TIMING.sub(b"", content) if path.suffix in (".json", ".jsonl") else content
            found[str(path.relative_to(self.cwd))] = hashlib.sha256(content).hexdigest()
        return found


def points(count: int) -> list[int]:
    """At most POINTS of the calls 1 to count, evenly spread."""
    return sorted({1 + round(i * (count - 1) / max(1, POINTS - 1)) for i in range(POINTS)})


def published_problem(case: Case, undisturbed: dict[str, str]) -> str | None:
    """What is published under its final name is complete and has no other files."""
    out = {"report": "page.html", "eval": "results/run/lm.json"}.get(case.name, "out")
    for folder in (case.cwd / out, case.cwd / out / "final"):
        if (folder / "manifest.json").exists():
            names = {str(path.relative_to(case.cwd)) for path in folder.rglob("*")}
            expected = {name for name in undisturbed if name.startswith(f"{folder.relative_to(case.cwd)}/")}
            if names != expected:
                return f"published: {sorted(names ^ expected)}"
    return None


def outcome_problem(fault: str, code: int, out: str, err: str) -> str | None:
    """The command is killed, does not notice, or reports the disk as the cause."""
    if "Traceback" in err:
        return err
    if fault == "kill":
        return None if code == -9 else f"exit code {code}: {err}"
    if code == 0:
        return None
    error: dict[str, Any] = json.loads(out.splitlines()[-1])["error"]
    return None if code == 4 and error["code"] in ("BG402", "BG403", "BG404") else f"exit code {code}: {err}"


def files_problem(case: Case, undisturbed: dict[str, str]) -> str | None:
    """The next run ends in the files of an undisturbed one."""
    code, _, err = case.run()
    if code:
        return f"the next run: {err}"
    files = case.files()
    differing = sorted(name for name in {*files, *undisturbed} if files.get(name) != undisturbed.get(name))
    return f"other files: {differing}" if differing else None


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_command_whose_call_fails(name: str, fault: str, inputs: Path, failing: ForkServer, tmp_path: Path) -> None:
    case = Case(name, inputs, failing, tmp_path)
    case.reset()
    code, _, err = case.run()
    assert code == 0, err
    undisturbed, count, problems = case.files(), case.num_calls, []
    for nth in points(count):
        case.reset()
        problem = (
            outcome_problem(fault, *case.run(nth, FAULTS[fault]))
            or published_problem(case, undisturbed)
            or files_problem(case, undisturbed)
        )
        if problem:
            problems.append(f"{fault} at call {nth} of {count}: {problem}")
    assert not problems, "\n".join(problems)
