"""What is written down while a run goes on: its figures, line by line, for programs, people and TensorBoard.

metrics.jsonl   one object a line; no step twice, however often the run was stopped
log.txt         the same in words, with the time of day, and everything that was said or went wrong
tensorboard/    if it was asked for
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from bertgpt.utils import console
from bertgpt.utils.errors import require_package
from bertgpt.utils.files import discard_result, sync, write_atomic

TIMING_KEYS = ("seconds", "tokens_per_s")  # what differs between two runs of the same


class Logger(Protocol):
    """Somewhere that figures go."""

    def write(self, line: Mapping[str, Any]) -> None:
        """One line."""

    def forget(self, step: int) -> None:
        """Whatever came after a step did not happen."""


class JsonlLogger:
    """metrics.jsonl."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, line: Mapping[str, Any]) -> None:
        """Add it; whoever looks finds whole lines."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def forget(self, step: int) -> None:
        """Keep the lines up to a step; half a line, which a crash may leave, goes too."""
        kept = [line for line in self.read() if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomic(self.path, lambda aside: discard_result(aside.write_text(text, encoding="utf-8")))

    def sync(self) -> None:
        """Wait until they are on the disk."""
        if self.path.exists():
            sync(self.path)

    def read(self) -> list[dict[str, Any]]:
        """All whole lines."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]


class TextLogger:
    """log.txt."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, line: Mapping[str, Any]) -> None:
        """The figures of a line."""
        figures = (
            f"{key} {value:.5g}" if isinstance(value, float) else f"{key} {value}" for key, value in line.items()
        )
        self.log(", ".join(figures))

    def log(self, text: str) -> None:
        """Anything."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%F %T')}  {text}\n")

    def forget(self, step: int) -> None:
        """A log forgets nothing."""
        self.log(f"what came after step {step} is done again")


class TensorBoardLogger:
    """A folder for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        require_package("tensorboard", "tensorboard")
        self.open(None)

    def open(self, purge: int | None) -> None:
        """Write from here on."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder), purge_step=purge)

    def write(self, line: Mapping[str, Any]) -> None:
        """Every number of a line, as split/name."""
        for key, value in line.items():
            if key not in ("step", "split"):
                self.writer.add_scalar(f"{line['split']}/{key}", value, line["step"])
        self.writer.flush()

    def forget(self, step: int) -> None:
        """It hides what came after."""
        self.writer.close()
        self.open(step + 1)


class RunLogger:
    """All of these; in processes that do not lead, none."""

    def __init__(self, folder: Path, leads: bool = True, tensorboard: bool = False) -> None:
        self.lines, self.words = JsonlLogger(folder / "metrics.jsonl"), TextLogger(folder / "log.txt")
        self.sinks: list[Logger] = [self.lines, self.words] if leads else []
        if leads and tensorboard:
            self.sinks.append(TensorBoardLogger(folder / "tensorboard"))
        self.leads = leads

    def write(self, line: Mapping[str, Any]) -> None:
        """Figures of a step."""
        for sink in self.sinks:
            sink.write(line)

    def info(self, text: str) -> None:
        """Something worth knowing, on the screen and in the log."""
        console.note(text)
        if self.leads:
            self.words.log(text)

    def truncate_after(self, step: int) -> None:
        """Go back to a step, if anything was written."""
        for sink in self.sinks if self.lines.path.exists() else []:
            sink.forget(step)

    def has(self, split: str, step: int) -> bool:
        """Whether figures of a split were written at a step."""
        return any(line["split"] == split and line["step"] == step for line in self.lines.read())

    def validation_scores(self) -> dict[int, float]:
        """What was found of each step at which held-out rows were looked at."""
        return validation_scores(self.lines.read())


def validation_scores(lines: list[dict[str, Any]]) -> dict[int, float]:
    """What checkpoints are chosen by, less being better: the held-out loss, or the error where labels are told."""
    return {line["step"]: line.get("error", line["loss"]) for line in lines if line["split"] == "val"}
