"""A run directory: what the run was started with, whether it may resume, and what it publishes at the end.

run.json  config.yaml  run.lock  tokenizer/  metrics.jsonl  log.txt  checkpoints/  metrics.json  plots/  final/
"""

import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from bertgpt.data.execution.workdir import config_diff
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub import pretrained
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.training.checkpoints import Checkpoints, check_version
from bertgpt.training.distributed import DistContext, translate_peer_errors
from bertgpt.training.logger import TIMING_KEYS, JsonlLogger, RunLogger
from bertgpt.utils import console
from bertgpt.utils.disk import disk_error
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import (
    ensure_writable_folder,
    lock,
    write_json,
    write_text,
)
from bertgpt.utils.json_files import parse_json, read_json_object
from bertgpt.utils.version import FORMAT_VERSION, __version__

# What --overwrite removes.
OWNED_DIRS = ("checkpoints", "final", ".final.tmp", ".final.old", "plots", "tensorboard", "tokenizer")
OWNED_FILES = (
    "metrics.jsonl", "metrics.tmp", "metrics.json", "log.txt", "samples.txt", "diverged.json", "run.json",
)  # fmt: skip


@dataclass(frozen=True)
class RunRecord:
    """What a run is started with."""

    fixed: dict[str, Any]  # written to config.yaml; must be the same when the run resumes
    mutable: dict[str, Any]  # written to config.yaml under `mutable`; may change on resuming, with a note
    metadata: dict[str, Any]  # written to run.json: options, device, precision
    tokenizer: Tokenizer
    overwrite: bool | None  # an existing run: True replaces it, None replaces it if anything changed, False never


@dataclass(frozen=True)
class RunResult:
    """What a run publishes."""

    model: PretrainedModel
    card: str  # Markdown: what the model is
    counts: dict[str, Any]  # steps, tokens, ...
    seconds: dict[str, float]  # where the time went


class RunDirectory:
    """The directory of one run. Create it with `open`, which locks it and decides whether the run may resume."""

    def __init__(self, path: Path, dist: DistContext | None = None) -> None:
        self.path, self.dist = path, dist or DistContext()
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.is_finished = False
        self.started = False  # a run that is refused leaves the directory untouched
        self.seconds: dict[str, float] | None = None  # of a run that this process has finished

    @classmethod
    @contextmanager
    def open(cls, path: Path, record: RunRecord, dist: DistContext, device: torch.device) -> Iterator["RunDirectory"]:
        """Lock the directory for this run. Raises BG213 if it holds a different run.

        `is_finished` tells whether there is nothing left to do. The main rank locks and writes; the others wait for it.
        """
        run = cls(path, dist)
        with translate_peer_errors(dist), run.locked(record) if dist.is_main else nullcontext():
            finished = run.start(record) if dist.is_main else False
            run.is_finished = bool(dist.all_reduce_max(finished, device))
            if run.is_finished:
                console.info(f"nothing to do: {path} is finished")
            yield run
            dist.barrier()

    @contextmanager
    def locked(self, record: RunRecord) -> Iterator[None]:
        """Hold the lock. How the run ended goes to run.json, and a traceback to log.txt."""
        ensure_writable_folder(self.path)
        with lock(self.path / "run.lock", str(self.path)):
            try:
                yield
            except BaseException as error:
                raise self.record_failure(error) from None
            self.update_metadata({"status": "done"})

    def record_failure(self, error: BaseException) -> BaseException:
        """Record why the run stopped, as far as the disk allows; name the disk if it is the reason."""
        error = disk_error(error, self.path) or error
        if not self.started:
            return error
        diverged = isinstance(error, BertGPTError) and error.code == "BG501"
        status = {"status": "diverged" if diverged else "interrupted", "error": str(error) or type(error).__name__}
        try:
            self.update_metadata(status)
            RunLogger(self.path).text.info("".join(traceback.format_exception(error)).rstrip())
        except OSError:
            pass  # the disk is full
        return error

    def update_metadata(self, metadata: dict[str, Any]) -> None:
        """Add to run.json: times, hosts and versions, nothing that a result depends on."""
        if not self.dist.is_main:
            return
        path = self.path / "run.json"
        try:
            before = dict(parse_json(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            before = {}
        write_json(path, before | metadata)

    # ------------------------------------------------------------------------------------- start or resume

    def start(self, record: RunRecord) -> bool:
        """Start the run, or find that it may resume. Returns whether it is finished; raises if it may do neither."""
        file = self.path / "config.yaml"
        if (self.path / "final").exists() and not file.exists() and record.overwrite is not True:
            hint = "give another --out, or --overwrite to replace it"
            raise BertGPTError("BG213", "output contains a model, not a run", path=str(self.path), hint=hint)
        if self.must_clear(record):
            self.clear()
        if self.is_published():
            return True
        self.started = True
        self.update_metadata(environment_info() | record.metadata | {"world_size": self.dist.world_size})
        self.checkpoints.remove_partial()
        config = {"version": FORMAT_VERSION} | record.fixed | {"mutable": record.mutable}
        text = yaml.safe_dump(config, sort_keys=False)
        write_text(file, text)
        record.tokenizer.save(self.path / "tokenizer")
        return False

    def must_clear(self, record: RunRecord) -> bool:
        """Whether an existing run is to be removed; raises if it has other options and may not be."""
        if record.overwrite or not (self.path / "config.yaml").exists():
            return bool(record.overwrite)
        before = read_config(self.path)
        changed_mutable = config_diff(before.pop("mutable", {}), record.mutable)
        changed = config_diff(before, record.fixed)
        if not changed and not changed_mutable:
            return False
        if changed and record.overwrite is False:
            hint = "give another --out, or --overwrite to start over"
            raise BertGPTError(
                "BG213", "run exists with different options", path=str(self.path), cause="; ".join(changed), hint=hint
            )
        prefix = "changed since the run started" if record.overwrite is False else "starting over"
        console.info(f"{prefix}: {'; '.join([*changed, *changed_mutable])}")
        return record.overwrite is None

    def is_published(self) -> bool:
        """Whether all that a finished run publishes is there: DVC removes a stage's outputs before it runs again."""
        splits = {line["split"] for line in JsonlLogger(self.path / "metrics.jsonl").read()}
        outputs = ["final/manifest.json", "metrics.json", "plots", *(f"plots/{split}.tsv" for split in splits)]
        return all((self.path / name).exists() for name in outputs)

    def clear(self) -> None:
        """Remove everything that a run writes. A directory that is a link, perhaps to a larger disk, stays a link."""
        for folder in (self.path / name for name in OWNED_DIRS):
            target = folder.resolve()
            if target.exists():
                shutil.rmtree(target)
            if folder.is_symlink():
                target.mkdir()
        for name in OWNED_FILES:
            (self.path / name).unlink(missing_ok=True)

    # --------------------------------------------------------------------------------------------- publish

    def publish(self, result: RunResult) -> None:
        """Write final/, metrics.json and plots/: the same bytes from the same run, however often it was stopped."""
        lines = JsonlLogger(self.path / "metrics.jsonl").read()
        last: dict[str, dict[str, Any]] = {line["split"]: line for line in lines}
        hidden = ("step", "tokens", "samples", "split", *TIMING_KEYS)
        metrics = {
            f"{split}_{key}": value for split, line in last.items() for key, value in line.items() if key not in hidden
        }
        metrics |= result.counts | {"parameters": result.model.model.num_parameters()}
        ensure_writable_folder(self.path / "plots")
        for split in last:
            metric = "loss" if "loss" in last[split] else "accuracy"  # benchmarks have no loss
            rows = "".join(f"{line['step']}\t{line[metric]}\n" for line in lines if line["split"] == split)
            text = f"step\t{metric}\n{rows}"
            plot = self.path / "plots" / f"{split}.tsv"
            write_text(plot, text)
        split = "val" if "val_loss" in metrics else "train"
        loss = (
            f"{'Validation' if split == 'val' else 'Training'} loss {metrics[f'{split}_loss']:.4f} nats per target.\n"
        )
        pretrained.save(result.model, self.path / "final", f"{result.card}\n{loss}")
        write_json(self.path / "metrics.json", metrics)
        self.seconds = result.seconds
        self.update_metadata({"seconds": result.seconds})

    def metrics(self) -> dict[str, Any]:
        """The metrics of a finished run, and where the time went if this process finished it."""
        metrics = read_json_object(self.path / "metrics.json", "BG318", "metrics.json of this run")
        seconds = {} if self.seconds is None else {"seconds": self.seconds}
        return {"path": str(self.path)} | metrics | seconds


def read_config(run: Path) -> dict[str, Any]:
    """config.yaml of a run, without its version. Raises if it is corrupt or of another format version."""
    file = run / "config.yaml"
    try:
        config: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not a mapping")
    except (OSError, ValueError, yaml.YAMLError) as error:
        cause = str(error).splitlines()[0]
        raise BertGPTError("BG318", "config.yaml is not a run's config", path=str(run), cause=cause) from None
    check_version(config, file)
    config.pop("version", None)
    return config


def environment_info() -> dict[str, Any]:
    """The process, host and versions that a run is trained with."""
    return {
        "status": "running", "error": None, "bertgpt": __version__, "torch": torch.__version__,
        "python": platform.python_version(), "host": platform.node(), "threads": torch.get_num_threads(),
        "pid": os.getpid(), "argv": sys.argv, "started": time.strftime("%FT%TZ", time.gmtime()),
    }  # fmt: skip
