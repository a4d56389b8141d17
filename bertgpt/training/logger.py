"""Run loggers: metrics and messages, for programs, people and TensorBoard.

metrics.jsonl   one JSON object per line; no step twice, however often the run was resumed
log.txt         the same as text with timestamps, and all notes and errors
tensorboard/    with --tensorboard
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError, require_package
from bertgpt.utils.files import sync, write_text
from bertgpt.utils.json_files import parse_json

TIMING_KEYS = ("seconds", "tokens_per_s")  # metrics that differ between two runs of the same training


class Logger(Protocol):
    """A destination of metrics."""

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Log the metrics of a split at a step."""

    def truncate_after(self, step: int) -> None:
        """Drop everything logged after a step: training resumes from there."""


class JsonlLogger:
    """Writes metrics.jsonl."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append a line; readers see complete lines only."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics, allow_nan=False) + "\n")

    def truncate_after(self, step: int) -> None:
        """Keep the lines up to a step; also drops a partial line that a crash left."""
        text = "".join(json.dumps(line) + "\n" for line in self.read() if line["step"] <= step)
        write_text(self.path, text)

    def sync(self) -> None:
        """Flush the file to disk."""
        if self.path.exists():
            sync(self.path)

    def read(self) -> list[dict[str, Any]]:
        """All complete lines."""
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().splitlines(keepends=True)
        return [self.parse(line, number) for number, line in enumerate(lines, 1) if line.endswith(b"\n")]

    def parse(self, line: bytes, number: int) -> dict[str, Any]:
        """One line; an error if it is damaged."""
        try:
            metrics: dict[str, Any] = parse_json(line)
            if not (isinstance(metrics["step"], int) and isinstance(metrics["split"], str)):
                raise ValueError("step or split is of the wrong type")
        except (ValueError, KeyError, TypeError) as error:
            message, path = "a line of metrics is damaged", f"{self.path}:{number}"
            raise BertGPTError("BG302", message, path=path, cause=f"{type(error).__name__}: {error}") from None
        return metrics


class TextLogger:
    """Writes log.txt, which is append-only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append metrics as text."""
        values = (
            f"{key} {value:.5g}" if isinstance(value, float) else f"{key} {value}" for key, value in metrics.items()
        )
        self.info(", ".join(values))

    def info(self, text: str) -> None:
        """Append a message."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%F %T')}  {text}\n")

    def truncate_after(self, step: int) -> None:
        """Keep everything, and note that later steps are repeated."""
        self.info(f"steps after {step} are repeated")


class TensorBoardLogger:
    """Writes TensorBoard event files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        require_package("tensorboard", "tensorboard")
        self.open(None)

    def open(self, purge_step: int | None) -> None:
        """Start an event file, which hides earlier events from `purge_step` on."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder), purge_step=purge_step)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Write every metric as the scalar split/name."""
        for key, value in metrics.items():
            if key not in ("step", "split"):
                self.writer.add_scalar(f"{metrics['split']}/{key}", value, metrics["step"])
        self.writer.flush()

    def truncate_after(self, step: int) -> None:
        """Have TensorBoard hide what was logged after a step."""
        self.writer.close()
        self.open(step + 1)


class RunLogger:
    """Logs to all destinations on the main rank, and to none on the others."""

    def __init__(self, folder: Path, is_main: bool = True, tensorboard: bool = False) -> None:
        self.jsonl, self.text = JsonlLogger(folder / "metrics.jsonl"), TextLogger(folder / "log.txt")
        self.loggers: list[Logger] = [self.jsonl, self.text] if is_main else []
        if is_main and tensorboard:
            self.loggers.append(TensorBoardLogger(folder / "tensorboard"))
        self.is_main = is_main

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Log the metrics of a split at a step."""
        for logger in self.loggers:
            logger.log(metrics)

    def info(self, text: str) -> None:
        """Log a message and print it as a note."""
        console.info(text)
        if self.is_main:
            self.text.info(text)

    def truncate_after(self, step: int) -> None:
        """Drop what was logged after a step, if anything was logged."""
        for logger in self.loggers if self.jsonl.path.exists() else []:
            logger.truncate_after(step)

    def has(self, split: str, step: int) -> bool:
        """Whether metrics of a split were logged at a step."""
        return any(line["split"] == split and line["step"] == step for line in self.jsonl.read())

    def validation_scores(self) -> dict[int, float]:
        """Validation scores logged so far, by step."""
        return validation_scores(self.jsonl.read())


def validation_scores(lines: list[dict[str, Any]]) -> dict[int, float]:
    """The score that selects the best checkpoint, by step, lower is better: validation error, or else loss."""
    return {line["step"]: line.get("error", line["loss"]) for line in lines if line["split"] == "val"}
