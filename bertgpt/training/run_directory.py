"""The folder of a run: what it was begun with, whether it may go on, and what is put there when it is finished.

run.json  config.yaml  run.lock  tokenizer/  metrics.jsonl  log.txt  checkpoints/  metrics.json  plots/  final/
"""

import json
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from bertgpt.data.execution.workdir import config_diff
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub import pretrained
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.training.checkpoints import Checkpoints, check_version, is_disk_full
from bertgpt.training.logger import TIMING_KEYS, JsonlLogger, RunLogger
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import discard_result, disk_error, ensure_writable_folder, lock, write_atomic, write_json
from bertgpt.utils.version import FORMAT_VERSION, __version__

OWNED_DIRS = ("checkpoints", "final", ".final.tmp", ".final.old", "plots", "tensorboard", "tokenizer")  # folders
OWNED_FILES = (
    "metrics.jsonl",
    "metrics.tmp",
    "metrics.json",
    "log.txt",
    "samples.txt",
    "diverged.json",
    "run.json",
)  # files


class RunDirectory:
    """That of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.facts: dict[str, Any] = {}
        self.begun = False  # a run that is refused leaves everything here as it was

    @contextmanager
    def locked(self, facts: dict[str, Any]) -> Iterator[None]:
        """Nobody else writes here meanwhile; how it ended is in run.json, and what went wrong in log.txt."""
        ensure_writable_folder(self.path)
        with lock(self.path / "run.lock", str(self.path)):
            self.facts = facts
            try:
                yield
            except BaseException as error:
                raise self.record_failure(error) from None
            self.update_metadata({"status": "done"})

    def record_failure(self, error: BaseException) -> BaseException:
        """Write down why, as far as the disk allows, and name the disk if it is the reason."""
        if isinstance(error, OSError) or is_disk_full(error):
            kind = error if isinstance(error, OSError) else OSError(28, "No space left on device", str(self.path))
            error = disk_error(kind, self.path)
        if not self.begun:
            return error
        diverged = isinstance(error, BertGPTError) and error.code == "BG501"
        try:
            self.update_metadata(
                {"status": "diverged" if diverged else "interrupted", "error": str(error) or type(error).__name__}
            )
            RunLogger(self.path).words.log("".join(traceback.format_exception(error)).rstrip())
        except OSError:
            pass  # the disk is full
        return error

    def update_metadata(self, facts: dict[str, Any]) -> None:
        """Add to run.json: clocks and places, nothing that a result depends on."""
        path = self.path / "run.json"
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            before = {}
        write_json(path, before | facts)

    def open(self, settings: dict[str, Any], mutable: dict[str, Any], tokenizer: Tokenizer, anew: bool | None) -> bool:
        """Be ready for a run with these settings. Whether it is finished already; an error if another one is here.

        What is `mutable` may change while a run goes on. `anew`: always (True), never (False), or if anything has
        changed (None).
        """
        now = settings | {"mutable": mutable}
        file = self.path / "config.yaml"
        if (self.path / "final").exists() and not file.exists() and anew is not True:
            hint = "give another --out, or --overwrite to replace it"
            raise BertGPTError("BG213", "a model that is no run of this kind is here", path=str(self.path), hint=hint)
        before = read_config(self.path) if file.exists() and not anew else None
        if before is not None and before != now:
            also = config_diff(before.pop("mutable", {}), mutable)
            changed = config_diff(before, settings)
            if changed and anew is False:
                hint = "give another --out, or --overwrite to begin anew"
                cause = "; ".join(changed)
                raise BertGPTError(
                    "BG213", "a run that was begun otherwise is here", path=str(self.path), cause=cause, hint=hint
                )
            said = "has changed since this run was begun: " if anew is False else "begins anew: "
            console.note(said + "; ".join([*changed, *also]))
            anew = anew is None
        if anew:
            self.clear()
        if self.is_finished():
            return True
        self.begun = True
        self.update_metadata(environment_info(self.facts))
        self.checkpoints.remove_partial()
        text = yaml.safe_dump({"version": FORMAT_VERSION} | now, sort_keys=False)
        write_atomic(file, lambda aside: discard_result(aside.write_text(text, encoding="utf-8")))
        tokenizer.save(self.path / "tokenizer")
        return False

    def is_finished(self) -> bool:
        """Whether all is here that is published: pipelines take it away before they run this again."""
        splits = {line["split"] for line in JsonlLogger(self.path / "metrics.jsonl").read()}
        made = ["final/manifest.json", "metrics.json", "plots", *(f"plots/{split}.tsv" for split in splits)]
        return all((self.path / name).exists() for name in made)

    def clear(self) -> None:
        """Away with all of it."""
        for folder in (self.path / name for name in OWNED_DIRS):
            there = folder.resolve()  # perhaps on a larger disk: the link stays
            if there.exists():
                shutil.rmtree(there)
            if folder.is_symlink():
                there.mkdir()
        for name in OWNED_FILES:
            (self.path / name).unlink(missing_ok=True)

    def publish(self, made: PretrainedModel, about: str, counts: dict[str, Any]) -> None:
        """The model as a folder of its own, and the figures: the same bytes from the same run, whenever it was made."""
        lines = RunLogger(self.path).lines.read()
        last: dict[str, dict[str, Any]] = {line["split"]: line for line in lines}
        hidden = ("step", "tokens", "samples", "split", *TIMING_KEYS)
        figures = {
            f"{split}_{key}": value for split, line in last.items() for key, value in line.items() if key not in hidden
        }
        figures |= counts | {"parameters": made.model.num_parameters()}
        ensure_writable_folder(self.path / "plots")
        for split in last:
            figure = "loss" if "loss" in last[split] else "accuracy"  # of suites that are asked on the way
            rows = "".join(f"{line['step']}\t{line[figure]}\n" for line in lines if line["split"] == split)
            text = f"step\t{figure}\n{rows}"
            plot = self.path / "plots" / f"{split}.tsv"
            write_atomic(plot, lambda aside, text=text: discard_result(aside.write_text(text)))  # type: ignore[misc]
        split = "val" if "val_loss" in figures else "train"
        said = f"{'Held-out' if split == 'val' else 'Training'} loss {figures[f'{split}_loss']:.4f} nats a target.\n"
        pretrained.save(made, self.path / "final", f"{about}\n{said}")
        write_json(self.path / "metrics.json", figures)

    def metrics(self) -> dict[str, Any]:
        """What a finished run came to."""
        figures: dict[str, Any] = json.loads((self.path / "metrics.json").read_text(encoding="utf-8"))
        return {"path": str(self.path)} | figures


def read_config(run: Path) -> dict[str, Any]:
    """What a run was begun with, if this version can read it."""
    file = run / "config.yaml"
    try:
        settings: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("it is no mapping")
    except (OSError, ValueError, yaml.YAMLError) as error:
        cause = str(error).splitlines()[0]
        raise BertGPTError("BG318", "config.yaml describes no run", path=str(run), cause=cause) from None
    check_version(settings, file)
    settings.pop("version", None)
    return settings


def environment_info(facts: dict[str, Any]) -> dict[str, Any]:
    """Where and with what."""
    return {
        "status": "running", "error": None, "bertgpt": __version__, "torch": torch.__version__,
        "python": platform.python_version(), "host": platform.node(), "threads": torch.get_num_threads(),
        "pid": os.getpid(), "argv": sys.argv, "begun": time.strftime("%FT%TZ", time.gmtime()),
    } | facts  # fmt: skip
