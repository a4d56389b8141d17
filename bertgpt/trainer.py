"""The trainer: steps, evaluation, checkpoints. It does not know whether it trains a BERT or a GPT: the objectives do.

A step is a function of the weights, the moments and its number: its samples, masks and dropout are drawn from the seed
and that number. So a run that was stopped goes on to the same bytes, and looking at it changes nothing.
"""

import json
import math
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertgpt import checkpoint, console
from bertgpt.draws import fold
from bertgpt.errors import BertGPTError
from bertgpt.model import Transformer
from bertgpt.objectives import Objective, Term
from bertgpt.optim import Schedule
from bertgpt.runtime import on_device, tensors
from bertgpt.shards.loader import Ahead, Loader, Samples

DROPOUT = 11  # the purpose of these draws
EVALUATION_ROWS = 64  # of held-out rows at once


@dataclass(frozen=True)
class Settings:
    """What a run does beside its steps."""

    tokens_per_step: int
    seed: int
    clip: float = 1.0
    log_every: int = 10
    eval_every: int = 250
    save_every: int = 500
    precision: str = "fp32"  # or bf16, by autocast
    device: str = "cpu"


@dataclass
class Tally:
    """Sums of some terms, and what they are divided by."""

    losses: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, terms: dict[str, Term], counts: dict[str, int]) -> None:
        """Those of some rows."""
        for name, count in counts.items():
            self.counts[name] += count
            self.losses[name] += float(terms[name].loss.detach())
            for key, value in terms[name].sums.items():
                self.sums[f"{name}_{key}"] += float(value)

    def metrics(self) -> dict[str, float]:
        """Losses in nats and shares of right guesses, each over its own targets."""
        found: dict[str, float] = {}
        for name, count in self.counts.items():
            found[f"{name}_loss"] = self.losses[name] / max(count, 1)
            found[f"{name}_acc"] = self.sums[f"{name}_right"] / max(count, 1)
        for key, targets in self.sums.items():
            if key.endswith("_targets"):
                kind = key.removesuffix("_targets")
                found[f"{kind}_acc"] = self.sums[f"{kind}_right"] / max(targets, 1)
        return {"loss": sum(found[f"{name}_loss"] for name in self.counts)} | found


@dataclass
class Prepared:
    """The micro-batches of a step, and how many targets all of them have."""

    parts: list[list[Any]]
    counts: list[list[dict[str, int]]]
    totals: dict[str, int]


class Trainer:
    """A model on its way."""

    def __init__(
        self,
        model: Transformer,
        objectives: dict[type, Objective],  # by the kind of rows that each is for
        loader: Loader,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        settings: Settings,
        folder: Path,
        held_out: Sequence[Samples] = (),
    ) -> None:
        self.model, self.objectives, self.loader = model, objectives, loader
        self.optimizer, self.schedule, self.settings = optimizer, schedule, settings
        self.folder, self.held_out = folder, held_out
        self.device = torch.device(settings.device)
        self.step = 0
        self.interrupted: int | None = None

    # ------------------------------------------------------------------------------------------------ a step

    def prepare(self, step: list[list[Any]]) -> Prepared:
        """In the background: targets are counted, and arrays become tensors."""
        counts = [[self.objectives[type(part)].counts(part) for part in micro] for micro in step]
        totals: dict[str, int] = defaultdict(int)
        for some in (count for micro in counts for count in micro):
            for name, count in some.items():
                totals[name] += count
        pin = self.device.type == "cuda"
        return Prepared([[tensors(part, pin) for part in micro] for micro in step], counts, dict(totals))

    def train_step(self, batch: Prepared) -> dict[str, Any]:
        """Gradients of all micro-batches, each term over its own targets, then one move of the weights."""
        self.model.train()
        tally = Tally()
        for number, (parts, counts) in enumerate(zip(batch.parts, batch.counts, strict=True)):
            self.seed_dropout(number)
            for part, count in zip(parts, counts, strict=True):
                terms = self.terms(part)
                loss = sum(terms[name].loss / max(batch.totals[name], 1) for name in count)
                if isinstance(loss, Tensor):
                    loss.backward()  # type: ignore[no-untyped-call]
                tally.add(terms, count)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        metrics = tally.metrics()
        if not math.isfinite(metrics["loss"]) or not bool(norm.isfinite()):
            cause = f"loss {metrics['loss']}, gradient norm {float(norm)}"
            hint = "a smaller --lr or a longer --warmup helps; the last checkpoint is from before"
            raise BertGPTError("BG501", f"step {self.step} is not finite, and is not taken", cause=cause, hint=hint)
        rate = self.schedule.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return metrics | {"lr": rate, "grad_norm": float(norm)}

    def terms(self, part: Any) -> dict[str, Term]:
        """The terms of some rows, wherever they are now."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            return self.objectives[type(part)](self.model, on_device(part, self.device))

    def seed_dropout(self, number: int) -> None:
        """By seed, step and the first sample of the micro-batch."""
        first = self.step * self.loader.size + (number * self.loader.division.world + self.loader.division.rank) * (
            self.loader.micro
        )
        key = fold(self.settings.seed + DROPOUT, np.array([first], np.uint64))[0]
        torch.default_generator.manual_seed(int(key >> np.uint64(1)))
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index or 0].manual_seed(int(key >> np.uint64(1)))

    # ------------------------------------------------------------------------------------------- a whole run

    def run(self) -> dict[str, Any]:
        """From where it is to the end."""
        began, training, since = time.monotonic(), 0.0, self.step
        last: dict[str, Any] = {}
        progress = console.Progress("training", self.schedule.steps, of_bytes=False)
        ahead = Ahead(self.loader.steps(self.step), self.prepare)
        with self.signals():
            if self.step == 0:
                self.save()  # a disk that cannot take a checkpoint is found out now
            while self.step < self.schedule.steps:
                start = time.monotonic()
                batch = next(ahead)
                metrics = self.train_step(batch)
                self.step += 1
                training += time.monotonic() - start
                done = self.step == self.schedule.steps
                if done or self.step % self.settings.log_every == 0:
                    speed = (self.step - since) * self.loader.size / max(training, 1e-9)
                    self.log("train", metrics | {"samples_per_s": round(speed, 2), "seconds": round(training, 3)})
                    progress.update(self.step)
                if self.held_out and (done or self.step % self.settings.eval_every == 0):
                    last = self.evaluate()
                    self.log("val", last)
                if done or self.interrupted or self.step % self.settings.save_every == 0:
                    self.save()
                if self.interrupted:
                    break
        progress.end()
        ahead.close()
        if self.interrupted:
            console.note(f"stopped after step {self.step}; the same command goes on from there")
            signal.raise_signal(self.interrupted)
        return {"steps": self.step, "seconds": round(time.monotonic() - began, 1)} | last

    @torch.no_grad()
    def evaluate(self) -> dict[str, Any]:
        """Held-out rows, always all of them and always with the same masks."""
        self.model.eval()
        tally = Tally()
        for samples in self.held_out:
            for start in range(0, len(samples), EVALUATION_ROWS):
                numbers = np.arange(start, min(start + EVALUATION_ROWS, len(samples)))
                part = samples.batch(numbers, np.zeros_like(numbers))
                counts = self.objectives[type(part)].counts(part)
                tally.add(self.terms(tensors(part, pin=False)), counts)
        return tally.metrics()

    def save(self) -> None:
        """A checkpoint of now."""
        checkpoint.write(
            self.folder / "checkpoints", self.step, self.model, self.optimizer, {"seed": self.settings.seed}
        )

    def resume(self) -> bool:
        """Go back to the newest checkpoint, if there is one; what was logged after it is forgotten."""
        found = checkpoint.newest(self.folder / "checkpoints")
        if found is None:
            return False
        state = checkpoint.read(found, self.model, self.optimizer)
        self.step = state["step"]
        log = self.folder / "metrics.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= self.step]
        log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        return True

    def log(self, split: str, metrics: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        tokens, samples = self.step * self.settings.tokens_per_step, self.step * self.loader.size
        line = {"step": self.step, "tokens": tokens, "samples": samples, "split": split}
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | metrics) + "\n")

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the step that is being taken; a second one ends it at once."""

        def stop(signum: int, frame: FrameType | None) -> None:
            self.interrupted = signum
            for each, handler in previous.items():
                signal.signal(each, handler)

        previous = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)
