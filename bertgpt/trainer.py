"""The trainer: steps, looks at held-out rows, checkpoints. It does not know whether it trains a BERT or a GPT: the
objectives do.

A step is a function of the weights, the moments and its number: its samples, masks and dropout are drawn from the seed
and that number. So a run that was stopped goes on to the same bytes, and looking at it changes nothing.
"""

import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bertgpt.data.loading.loader import Ahead, Loader
from bertgpt.training.checkpoints import Checkpoints, read
from bertgpt.training.device import DTYPES, memory_of, on_device, seed_draws, tensors
from bertgpt.training.distributed import Asked, Exchange, Group
from bertgpt.training.logger import Journal
from bertgpt.training.metrics import SUMS, Tally
from bertgpt.training.objectives import Objective, Term
from bertgpt.training.optimizers import NO_END, LossScale, Optimizers, Schedule
from bertgpt.training.timer import Clock
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import write_json
from bertgpt.utils.rng import fold

DROPOUT = 11  # the purpose of these draws
PATIENCE = 3  # steps in a row that may be not finite
CALMER = "a smaller --lr or a longer --warmup helps; the checkpoints are from before, diverged.json may tell more"
SETTLED = 5  # steps that are slower than others: code is compiled, memory is touched for the first time
MEASURED = 20  # the step after which the speed of a run with a time limit is known


@dataclass(frozen=True)
class Settings:
    """What a run does beside its steps."""

    tokens_per_step: int
    seed: int
    clip: float = 1.0
    log_every: int = 10
    save_every: int = 500
    precision: str = "fp32"  # bf16 and fp16 by autocast
    max_seconds: float | None = None  # of training, after which the schedule ends
    flops_per_step: float = 0.0
    peak: float | None = None  # FLOPs in a second that all devices could make, where that is known


@dataclass
class Prepared:
    """The micro-batches of a step, and how many targets each part has."""

    parts: list[list[Any]]
    counts: list[list[dict[str, int]]]


class Hook(Protocol):
    """Something that looks at the model every so many steps, and changes nothing."""

    @property
    def name(self) -> str:
        """Of its lines in the journal."""

    @property
    def every(self) -> int:
        """How many steps."""

    def __call__(self, trainer: "Trainer") -> dict[str, Any] | None:
        """What it found; nothing if it was told to stop."""


class Trainer:
    """A model on its way."""

    def __init__(
        self,
        model: Any,  # a transformer, or a classifier on one
        objectives: dict[type, Objective],  # by the kind of rows that each is for
        weights: dict[str, float],  # of terms; one where nothing is said
        loader: Loader,
        optimizers: Optimizers,
        schedule: Schedule,
        settings: Settings,
        checkpoints: Checkpoints,
        journal: Journal,
        hooks: Sequence[Hook],
        group: Group,
        device: torch.device,
    ) -> None:
        self.model, self.objectives, self.weights, self.loader = model, objectives, weights, loader
        self.optimizers, self.schedule, self.settings = optimizers, schedule, settings
        self.checkpoints, self.journal, self.hooks = checkpoints, journal, hooks
        self.group, self.device = group, device
        self.exchange = Exchange(group, [weight for weight in model.parameters() if weight.requires_grad])
        self.scale, self.clock, self.asked = LossScale(settings.precision), Clock(), Asked()
        self.step = 0
        self.offset = 0  # steps' worth of samples that were passed over, where training had gone wrong
        self.taken = True  # whether the last step moved weights
        self.skipped = 0  # steps in a row that were not finite, which no scale of fp16 excuses
        self.rolled_back = False
        self.since = 0  # the step at which this process began
        self.measured = (0, 0.0)  # a step and the seconds of training until then
        self.logged = (0, 0.0)  # the step and the seconds of training at the last line of the journal

    # ------------------------------------------------------------------------------------------------ a step

    def prepare(self, step: list[list[Any]]) -> Prepared:
        """In the background: targets are counted, and arrays become tensors."""
        counts = [[self.objectives[type(part)].counts(part) for part in micro] for micro in step]
        pin = self.device.type == "cuda"
        if pin:
            torch.cuda.set_device(self.device)  # another thread has another one
        return Prepared([[tensors(part, pin) for part in micro] for micro in step], counts)

    def train_step(self, batch: Prepared) -> dict[str, float] | None:
        """Gradients of all micro-batches in all processes, each term over its own targets; then weights move once.

        They do not move if the loss or a gradient is not finite. Nothing is done if somebody asks to stop meanwhile.
        """
        self.model.train()
        tally, share = Tally(self.device), self.shares(batch)
        last = len(batch.parts) - 1
        for number, (parts, counts) in enumerate(zip(batch.parts, batch.counts, strict=True)):
            if self.asked.signal and self.group.world == 1:  # others would wait for this one
                self.optimizers.forget()
                return None
            self.seed_dropout(number)
            for part, count in zip(parts, counts, strict=True):
                if number == last and part is parts[-1]:
                    self.exchange.arm()
                terms = self.terms(part)
                loss = sum(terms[name].loss * (share[name] * self.scale.value) for name in count)
                if isinstance(loss, Tensor):
                    loss.backward()  # type: ignore[no-untyped-call]
                tally.add(terms, count)
        gradients = self.exchange.finish()
        self.group.add(tally.values)
        if self.scale.value != 1.0:
            torch._foreach_mul_(gradients, 1 / self.scale.value)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        metrics, rate = tally.metrics(self.weights), self.schedule.rate(self.step)
        metrics |= {"lr": rate, "grad_norm": float(norm)}
        finite = math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])
        if finite:
            self.optimizers.step(rate)
        else:
            self.optimizers.forget()
        self.taken = finite
        if not self.scale.excuses(finite):
            self.skipped = 0 if finite else self.skipped + 1
        return metrics

    def shares(self, batch: Prepared) -> dict[str, float]:
        """What a target of each term weighs: one over all targets of the step, those of other processes too."""
        flat = [counts for micro in batch.counts for counts in micro]
        totals = [float(sum(counts.get(name, 0) for counts in flat)) for name in SUMS]
        if self.group.world > 1:
            totals = self.group.add(torch.tensor(totals, device=self.device)).tolist()
        return {name: self.weights.get(name, 1.0) / max(total, 1.0) for name, total in zip(SUMS, totals, strict=True)}

    def terms(self, part: Any) -> dict[str, Term]:
        """The terms of some rows, wherever they are now."""
        precision = self.settings.precision
        with torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32"):
            return self.objectives[type(part)](self.model, on_device(part, self.device))

    def seed_dropout(self, number: int) -> None:
        """By seed, step and the first sample of the micro-batch."""
        division = self.loader.division
        first = (self.step + self.offset) * self.loader.size
        first += (number * division.world + division.rank) * self.loader.micro
        key = fold(self.settings.seed + DROPOUT, np.array([first], np.uint64))[0]
        seed_draws(int(key >> np.uint64(1)), self.device)

    # ------------------------------------------------------------------------------------------- a whole run

    def run(self) -> None:
        """From where it is to the end, or until somebody asks it to stop.

        What is due after a step is done before the next one is taken, by whoever finds that it was not done yet.
        """
        progress = console.Progress("training", self.known_steps(), of_bytes=False, first=self.step)
        ahead = self.samples_from_here()
        try:
            with self.asked:
                while True:
                    self.look()
                    stopping = self.stopping()
                    if self.is_saving() or stopping:
                        self.save()
                    if self.is_last() or stopping:
                        break
                    with self.clock.on("training"), self.within_memory():
                        metrics = self.train_step(next(ahead))
                    if metrics is None:
                        continue
                    self.step += 1
                    self.write_step(metrics, progress)
                    if self.skipped >= PATIENCE or not (self.skipped or self.sound()):
                        self.roll_back(metrics)
                        ahead.close()
                        ahead = self.samples_from_here()
                    self.measure_horizon(progress)
        finally:
            ahead.close()
            progress.end()
        if self.asked.signal:
            saved = f"saved step {self.step}" if self.checkpoints.has(self.step) else f"stopped after step {self.step}"
            self.journal.note(f"{saved}; the same command goes on from there")
            signal.raise_signal(self.asked.signal)
            raise KeyboardInterrupt  # it is ignored, as of what a script has put into the background
        if self.skipped or not self.finite():
            raise BertGPTError("BG501", "the last steps are not finite", hint=CALMER)

    @contextmanager
    def within_memory(self) -> Iterator[None]:
        """If more memory is needed than there is, say what would need less."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            whole = self.loader.size // self.loader.division.world
            less = [f"--micro-batch {n}" for n in range(self.loader.micro - 1, 0, -1) if whole % n == 0][:1]
            hint = f"{' or '.join([*less, '--recompute'])} needs less; the run goes on from its last checkpoint"
            cause = str(error).splitlines()[0]
            raise BertGPTError("BG406", "there is not enough memory for a step", cause=cause, hint=hint) from None

    def samples_from_here(self) -> Ahead:
        """The batches of the steps that follow."""
        return Ahead(self.loader.steps(self.step + self.offset), self.prepare)

    def look(self) -> None:
        """Have the hooks look that are due."""
        for hook in self.hooks:
            if not self.is_due(hook) or self.group.most(self.journal.has(hook.name, self.step), self.device):
                continue
            with self.clock.on("looking"), self.within_memory():
                seen = hook(self)
            if seen is not None:
                self.write(hook.name, seen)

    def is_due(self, hook: Hook) -> bool:
        """Whether a hook looks after this step."""
        return self.step > 0 and (self.is_last() or (self.step % hook.every == 0 and not self.skipped))

    def known_steps(self) -> int:
        """How many steps there will be; 0 where that is not known yet."""
        return 0 if self.schedule.steps == NO_END else self.schedule.steps

    def is_last(self) -> bool:
        """Whether no step follows."""
        return self.step == self.schedule.steps

    def is_saving(self) -> bool:
        """Whether a checkpoint is due. One before the first step shows that the disk can take it; while steps are not
        finite there is none, so that there is one from before."""
        return self.is_last() or (self.step % self.settings.save_every == 0 and not self.skipped)

    def save(self) -> None:
        """A checkpoint of now, unless there is one."""
        state: dict[str, Any] = {
            "offset": self.offset, "skipped": self.skipped, "rolled_back": self.rolled_back,
            "steps": self.schedule.steps, "scale": [self.scale.value, self.scale.good],
        }  # fmt: skip
        if self.group.leads and not self.checkpoints.has(self.step) and self.finite():
            with self.clock.on("saving"):
                scores = self.journal.scores()
                self.journal.lines.sync()  # or a power cut could leave a checkpoint without its lines
                self.checkpoints.write(self.step, self.model, self.optimizers, state, scores, self.settings.save_every)
        self.group.wait()

    def stopping(self) -> bool:
        """Whether any of the processes was asked to stop."""
        agreed = int(self.group.most(self.asked.signal, self.device))
        self.asked.signal = agreed or self.asked.signal  # which may have come meanwhile, and is for the next time
        return agreed > 0

    def restored(self, every: int) -> dict[str, Any] | None:
        """What the first process takes, all processes take: they may not see the same."""
        state = self.checkpoints.restore(self.model, self.optimizers, every) if self.group.leads else None
        step = int(self.group.most(-1 if state is None else state["step"], self.device))
        if state is None and step >= 0:
            state = read(self.checkpoints.at(step), self.model, self.optimizers)
        return state

    def resume(self, every: int = 1) -> bool:
        """Go back to the newest checkpoint, if there is one; what was logged after it is forgotten."""
        state = self.restored(every)
        if state is None:
            self.journal.forget(0)  # of checkpoints that somebody has removed
            return False
        self.step, self.offset, self.skipped = state["step"], state["offset"], state["skipped"]
        self.rolled_back = state["rolled_back"]
        self.scale.value, self.scale.good = state["scale"]
        self.schedule = replace(self.schedule, steps=state["steps"])
        self.since, self.logged = self.step, (self.step, self.clock.of("training"))
        self.journal.forget(self.step)
        return True

    def sound(self) -> bool:
        """Whether all weights are finite, where that matters: others must not be looked at, nor saved."""
        due = self.is_saving() or any(self.is_due(hook) for hook in self.hooks)
        return not due or self.finite()

    def finite(self) -> bool:
        """Whether all weights are."""
        return all(bool(weight.detach().isfinite().all()) for weight in self.model.parameters())

    def roll_back(self, metrics: dict[str, float]) -> None:
        """Once, go back to the last checkpoint and pass over the samples since; the second time, give up."""
        here, slots = self.step, (self.step + self.offset) * self.loader.size
        cause = said(metrics)
        if self.rolled_back:
            norms = {name: str(float(weight.detach().norm())) for name, weight in self.model.named_parameters()}
            seen = {"step": here, "samples_before": slots, "norms": norms} | {k: str(v) for k, v in metrics.items()}
            if self.group.leads:
                write_json(self.checkpoints.folder.parent / "diverged.json", seen)
            raise BertGPTError("BG501", f"training diverged at step {here}", cause=cause, hint=CALMER)
        self.resume(self.settings.save_every)  # one that an undisturbed run has too
        self.offset += here - self.step
        self.rolled_back, self.skipped = True, 0
        self.journal.note(f"step {here} is not finite ({cause}): back to step {self.step}, past these samples")

    def measure_horizon(self, progress: console.Progress) -> None:
        """Where the length is a time: how many steps that is, from the speed of the first ones."""
        if self.settings.max_seconds is None or self.schedule.steps != NO_END:
            return
        spent = self.group.most(self.clock.of("training"), self.device)
        if self.step == self.since + SETTLED:
            self.measured = (self.step, spent)
        if self.step < MEASURED or self.step <= self.since + SETTLED:
            return
        seconds = (spent - self.measured[1]) / (self.step - self.measured[0])
        steps = self.step + max(0, round((self.settings.max_seconds - spent) / seconds))
        self.schedule = replace(self.schedule, steps=steps)
        progress.total = steps
        self.journal.note(f"{seconds:.3g} s a step: {steps:,} steps")

    # --------------------------------------------------------------------------------------------- the journal

    def write_step(self, metrics: dict[str, float], progress: console.Progress) -> None:
        """What a step came to: a line every so often, and the live line."""
        if not self.taken:
            scaled = f"; losses are scaled by {self.scale.value:g} from here" if self.scale.moves else ""
            self.journal.note(f"step {self.step} is not finite ({said(metrics)}), and is not taken{scaled}")
        steps, seconds = self.step - self.logged[0], self.clock.of("training") - self.logged[1]
        speed = self.settings.tokens_per_step * steps / max(seconds, 1e-9)
        if self.taken and (self.is_last() or self.step % self.settings.log_every == 0):
            self.write("train", metrics | {"seconds": round(seconds, 3), "tokens_per_s": round(speed)})
            self.logged = (self.step, self.clock.of("training"))
        usage = "" if self.settings.peak is None else f"{self.usage(speed):.0%} MFU, "
        live = f"step {self.step:,}, loss {metrics['loss']:.3f}, lr {metrics['lr']:.2e}, {speed:,.0f} tokens/s, {usage}"
        progress.update(self.step, said=f"{live}{memory_of(self.device) / 1e9:.1f} GB")

    def usage(self, speed: float) -> float:
        """The share of what the devices could compute that the model uses, at so many tokens a second."""
        flops = self.settings.flops_per_step / self.settings.tokens_per_step * speed
        return flops / (self.settings.peak or math.inf)

    def write(self, split: str, figures: dict[str, Any]) -> None:
        """One line of the journal."""
        if not all(math.isfinite(value) for value in figures.values() if isinstance(value, float)):
            raise BertGPTError("BG501", f"the loss of {split} at step {self.step} is not finite", hint=CALMER)
        tokens, samples = self.step * self.settings.tokens_per_step, self.step * self.loader.size
        self.journal.write({"step": self.step, "tokens": tokens, "samples": samples, "split": split} | figures)


def said(figures: Mapping[str, Any]) -> str:
    """What tells that something went wrong."""
    words = {"loss": "loss", "grad_norm": "gradient norm"}
    return ", ".join(f"{word} {figures[key]:.4g}" for key, word in words.items() if key in figures)
