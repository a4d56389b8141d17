"""The trainer: steps, evaluation, checkpoints. It does not know whether it trains a BERT or a GPT: the objectives do.

A step is a function of the weights, the moments and its number: its samples, masks and dropout are drawn from the seed
and that number. So a run that was stopped goes on to the same bytes, and looking at it changes nothing.
"""

import json
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from bertgpt.runtime import Group, on_device, tensors
from bertgpt.shards.loader import Ahead, Loader, Samples
from bertgpt.tally import PLACE, SUMS, Tally

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
    held_out_bytes: int = 0  # of text, where it is known


@dataclass
class Prepared:
    """The micro-batches of a step, and how many targets each part has."""

    parts: list[list[Any]]
    counts: list[list[dict[str, int]]]


class Trainer:
    """A model on its way."""

    def __init__(
        self,
        model: Transformer,
        objectives: dict[type, Objective],  # by the kind of rows that each is for
        weights: dict[str, float],  # of terms; one where nothing is said
        loader: Loader,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        settings: Settings,
        folder: Path,
        held_out: Sequence[Samples],
        group: Group,
        device: torch.device,
    ) -> None:
        self.model, self.objectives, self.weights, self.loader = model, objectives, weights, loader
        self.optimizer, self.schedule, self.settings = optimizer, schedule, settings
        self.folder, self.held_out, self.group, self.device = folder, held_out, group, device
        self.step = 0
        self.interrupted = 0  # by which signal

    # ------------------------------------------------------------------------------------------------ a step

    def prepare(self, step: list[list[Any]]) -> Prepared:
        """In the background: targets are counted, and arrays become tensors."""
        counts = [[self.objectives[type(part)].counts(part) for part in micro] for micro in step]
        pin = self.device.type == "cuda"
        return Prepared([[tensors(part, pin) for part in micro] for micro in step], counts)

    def train_step(self, batch: Prepared) -> dict[str, Any]:
        """Gradients of all micro-batches in all processes, each term over its own targets; then weights move once."""
        self.model.train()
        tally, share = Tally(self.device), self.shares(batch)
        for number, (parts, counts) in enumerate(zip(batch.parts, batch.counts, strict=True)):
            self.seed_dropout(number)
            for part, count in zip(parts, counts, strict=True):
                terms = self.terms(part)
                loss = sum(terms[name].loss * share[name] for name in count)
                if isinstance(loss, Tensor):
                    loss.backward()  # type: ignore[no-untyped-call]
                tally.add(terms, count)
        self.group.add_gradients(self.model.parameters())
        self.group.add(tally.values)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        metrics = tally.metrics(self.weights)
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

    def shares(self, batch: Prepared) -> dict[str, float]:
        """What a target of each term weighs: one over all targets of the step, those of other processes too."""
        mine = torch.zeros(len(SUMS), dtype=torch.float64, device=self.device)
        for counts in (counts for micro in batch.counts for counts in micro):
            for i, name in enumerate(SUMS):
                mine[i] += counts.get(name, 0)
        totals = dict(zip(SUMS, self.group.add(mine).tolist(), strict=True))
        return {name: self.weights.get(name, 1.0) / max(total, 1.0) for name, total in totals.items()}

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
            while self.step < self.schedule.steps and not self.asked_to_stop():
                start = time.monotonic()
                metrics = self.train_step(next(ahead))
                self.step += 1
                training += time.monotonic() - start
                done = self.step == self.schedule.steps
                if done or self.step % self.settings.log_every == 0:
                    speed = round((self.step - since) * self.settings.tokens_per_step / max(training, 1e-9))
                    self.log("train", metrics | {"seconds": round(training, 3), "tokens_per_s": speed})
                    progress.update(self.step, said=f"loss {metrics['loss']:.3f}, {speed:,} tokens/s")
                if self.held_out and (done or self.step % self.settings.eval_every == 0):
                    last = self.evaluate()
                    self.log("val", last)
                if done or self.step % self.settings.save_every == 0:
                    self.save()
            if self.interrupted:
                self.save()
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
        tally = Tally(self.device)
        for samples in self.held_out:
            step = EVALUATION_ROWS * self.group.world
            for start in range(EVALUATION_ROWS * self.group.rank, len(samples), step):
                numbers = np.arange(start, min(start + EVALUATION_ROWS, len(samples)))
                part = samples.batch(numbers, np.zeros_like(numbers))
                counts = self.objectives[type(part)].counts(part)
                tally.add(self.terms(tensors(part, pin=False)), counts)
        self.group.add(tally.values)
        metrics = tally.metrics(self.weights)
        if self.settings.held_out_bytes and "causal_loss" in metrics:
            nats = float(tally.values[PLACE["causal_loss"]])
            metrics["bits_per_byte"] = nats / math.log(2) / self.settings.held_out_bytes
        return metrics

    def save(self) -> None:
        """A checkpoint of now."""
        if self.group.leads:
            state = {"seed": self.settings.seed}
            checkpoint.write(self.folder / "checkpoints", self.step, self.model, self.optimizer, state)
        self.group.wait()

    def asked_to_stop(self) -> bool:
        """Whether any of the processes was."""
        self.interrupted = self.group.most(self.interrupted, self.device)
        return self.interrupted > 0

    def resume(self) -> bool:
        """Go back to the newest checkpoint, if there is one; what was logged after it is forgotten."""
        found = checkpoint.newest(self.folder / "checkpoints")
        if found is None:
            return False
        state = checkpoint.read(found, self.model, self.optimizer)
        self.step = state["step"]
        log = self.folder / "metrics.jsonl"
        if not self.group.leads:
            return True
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= self.step]
        log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        return True

    def log(self, split: str, metrics: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        if not self.group.leads:
            return
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
