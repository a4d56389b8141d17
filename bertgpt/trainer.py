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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertgpt.data.loading.loader import Prefetcher, StepLoader
from bertgpt.training.callback import Callback, TrainerView
from bertgpt.training.checkpoints import Checkpoints, load_checkpoint
from bertgpt.training.device import DTYPES, peak_memory, seed_torch, to_device, to_tensors
from bertgpt.training.distributed import DistContext, GradientReducer, StopSignal
from bertgpt.training.logger import RunLogger
from bertgpt.training.metrics import METRIC_SUMS, MetricAccumulator
from bertgpt.training.objectives import LossTerm, Objective
from bertgpt.training.optimizers import UNKNOWN_STEPS, GradScaler, LRSchedule, Optimizers
from bertgpt.training.timer import Timer
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import write_json
from bertgpt.utils.rng import hash_key

DROPOUT_STREAM = 11  # the purpose of these draws
MAX_NONFINITE_STEPS = 3  # steps in a row that may be not finite
DIVERGENCE_HINT = (
    "a smaller --lr or a longer --warmup helps; the checkpoints are from before, diverged.json may tell more"
)
TIMING_WARMUP = 5  # steps that are slower than others: code is compiled, memory is touched for the first time
TIMING_STEPS = 20  # the step after which the speed of a run with a time limit is known


@dataclass(frozen=True)
class TrainerConfig:
    """What a run does beside its steps."""

    tokens_per_step: int
    seed: int
    grad_clip: float = 1.0
    log_every: int = 10
    save_every: int = 500
    precision: str = "fp32"  # bf16 and fp16 by autocast
    max_seconds: float | None = None  # of training, after which the schedule ends
    flops_per_step: float = 0.0
    peak_flops: float | None = None  # FLOPs in a second that all devices could make, where that is known


@dataclass
class StepBatch:
    """The micro-batches of a step, and how many targets each part has."""

    micro_batches: list[list[Any]]
    counts: list[list[dict[str, int]]]


class Trainer:
    """A model on its way."""

    def __init__(
        self,
        model: Any,  # a transformer, or a classifier on one
        objectives: dict[type, Objective],  # by the kind of rows that each is for
        term_weights: dict[str, float],  # of terms; one where nothing is said
        loader: StepLoader,
        optimizers: Optimizers,
        schedule: LRSchedule,
        config: TrainerConfig,
        checkpoints: Checkpoints,
        logger: RunLogger,
        callbacks: Sequence[Callback],
        dist: DistContext,
        device: torch.device,
    ) -> None:
        self.model, self.objectives, self.term_weights, self.loader = model, objectives, term_weights, loader
        self.optimizers, self.schedule, self.config = optimizers, schedule, config
        self.checkpoints, self.logger, self.callbacks = checkpoints, logger, callbacks
        self.dist, self.device = dist, device
        self.grad_reducer = GradientReducer(dist, [weight for weight in model.parameters() if weight.requires_grad])
        self.grad_scaler, self.timer, self.stop_signal = GradScaler(config.precision), Timer(), StopSignal()
        self.step = 0
        self.skipped_steps = 0  # steps' worth of samples that were passed over, where training had gone wrong
        self.step_applied = True  # whether the last step moved weights
        self.nonfinite_streak = 0  # steps in a row that were not finite, which no scale of fp16 excuses
        self.rolled_back = False
        self.start_step = 0  # the step at which this process began
        self.speed_start = (0, 0.0)  # a step and the seconds of training until then
        self.last_log = (0, 0.0)  # the step and the seconds of training at the last line of the journal

    # ------------------------------------------------------------------------------------------------ a step

    def prepare(self, step: list[list[Any]]) -> StepBatch:
        """In the background: targets are counted, and arrays become tensors."""
        counts = [[self.objectives[type(part)].count_targets(part) for part in micro] for micro in step]
        pin = self.device.type == "cuda"
        if pin:
            torch.cuda.set_device(self.device)  # another thread has another one
        return StepBatch([[to_tensors(part, pin) for part in micro] for micro in step], counts)

    def train_step(self, batch: StepBatch) -> dict[str, float] | None:
        """Gradients of all micro-batches in all processes, each term over its own targets; then weights move once.

        They do not move if the loss or a gradient is not finite. Nothing is done if somebody asks to stop meanwhile.
        """
        self.model.train()
        tally, share = MetricAccumulator(self.device), self.loss_scales(batch)
        last = len(batch.micro_batches) - 1
        for number, (parts, counts) in enumerate(zip(batch.micro_batches, batch.counts, strict=True)):
            if self.stop_signal.signal and self.dist.world == 1:  # others would wait for this one
                self.optimizers.zero_grad()
                return None
            self.seed_dropout(number)
            for part, count in zip(parts, counts, strict=True):
                if number == last and part is parts[-1]:
                    self.grad_reducer.start_last_microbatch()
                terms = self.compute_loss(part)
                loss = sum(terms[name].loss * (share[name] * self.grad_scaler.scale) for name in count)
                if isinstance(loss, Tensor):
                    loss.backward()  # type: ignore[no-untyped-call]
                tally.add(terms, count)
        gradients = self.grad_reducer.finish()
        self.dist.all_reduce(tally.sums)
        if self.grad_scaler.scale != 1.0:
            torch._foreach_mul_(gradients, 1 / self.grad_scaler.scale)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        metrics, rate = tally.metrics(self.term_weights), self.schedule.lr(self.step)
        metrics |= {"lr": rate, "grad_norm": float(norm)}
        finite = math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])
        if finite:
            self.optimizers.step(rate)
        else:
            self.optimizers.zero_grad()
        self.step_applied = finite
        if not self.grad_scaler.update(finite):
            self.nonfinite_streak = 0 if finite else self.nonfinite_streak + 1
        return metrics

    def loss_scales(self, batch: StepBatch) -> dict[str, float]:
        """What a target of each term weighs: one over all targets of the step, those of other processes too."""
        flat = [counts for micro in batch.counts for counts in micro]
        totals = [float(sum(counts.get(name, 0) for counts in flat)) for name in METRIC_SUMS]
        if self.dist.world > 1:
            totals = self.dist.all_reduce(torch.tensor(totals, device=self.device)).tolist()
        return {
            name: self.term_weights.get(name, 1.0) / max(total, 1.0)
            for name, total in zip(METRIC_SUMS, totals, strict=True)
        }

    def compute_loss(self, part: Any) -> dict[str, LossTerm]:
        """The terms of some rows, wherever they are now."""
        precision = self.config.precision
        with torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32"):
            return self.objectives[type(part)](self.model, to_device(part, self.device))

    def seed_dropout(self, number: int) -> None:
        """By seed, step and the first sample of the micro-batch."""
        division = self.loader.division
        first = (self.step + self.skipped_steps) * self.loader.size
        first += (number * division.world + division.rank) * self.loader.micro
        key = hash_key(self.config.seed + DROPOUT_STREAM, np.array([first], np.uint64))[0]
        seed_torch(int(key >> np.uint64(1)), self.device)

    # ------------------------------------------------------------------------------------------- a whole run

    def train(self) -> None:
        """From where it is to the end, or until somebody asks it to stop.

        What is due after a step is done before the next one is taken, by whoever finds that it was not done yet.
        """
        progress = console.Progress("training", self.total_steps(), of_bytes=False, first=self.step)
        ahead = self.batches()
        try:
            with self.stop_signal:
                while True:
                    self.run_callbacks()
                    stopping = self.should_stop()
                    if self.should_save() or stopping:
                        self.save()
                    if self.is_last() or stopping:
                        break
                    with self.timer.measure("training"), self.explain_oom():
                        metrics = self.train_step(next(ahead))
                    if metrics is None:
                        continue
                    self.step += 1
                    self.log_step(metrics, progress)
                    if self.nonfinite_streak >= MAX_NONFINITE_STEPS or not (
                        self.nonfinite_streak or self.check_weights()
                    ):
                        self.rollback(metrics)
                        ahead.close()
                        ahead = self.batches()
                    self.resolve_time_budget(progress)
        finally:
            ahead.close()
            progress.end()
        if self.stop_signal.signal:
            saved = f"saved step {self.step}" if self.checkpoints.has(self.step) else f"stopped after step {self.step}"
            self.logger.info(f"{saved}; the same command goes on from there")
            signal.raise_signal(self.stop_signal.signal)
            raise KeyboardInterrupt  # it is ignored, as of what a script has put into the background
        if self.nonfinite_streak or not self.weights_are_finite():
            raise BertGPTError("BG501", "the last steps are not finite", hint=DIVERGENCE_HINT)

    @contextmanager
    def explain_oom(self) -> Iterator[None]:
        """If more memory is needed than there is, say what would need less."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            whole = self.loader.size // self.loader.division.world
            less = [f"--micro-batch-size {n}" for n in range(self.loader.micro - 1, 0, -1) if whole % n == 0][:1]
            hint = f"{' or '.join([*less, '--activation-checkpointing'])} needs less; the run goes on from its last checkpoint"
            cause = str(error).splitlines()[0]
            raise BertGPTError("BG406", "there is not enough memory for a step", cause=cause, hint=hint) from None

    def batches(self) -> Prefetcher:
        """The batches of the steps that follow."""
        return Prefetcher(self.loader.steps(self.step + self.skipped_steps), self.prepare)

    def run_callbacks(self) -> None:
        """Have the hooks look that are due."""
        for hook in self.callbacks:
            if not self.should_run(hook) or self.dist.all_reduce_max(
                self.logger.has(hook.name, self.step), self.device
            ):
                continue
            with self.timer.measure("looking"), self.explain_oom():
                seen = hook(self.view())
            if seen is not None:
                self.log(hook.name, seen)

    def view(self) -> TrainerView:
        """What callbacks may see."""
        return TrainerView(
            self.model, self.step, self.dist, self.device, self.objectives, self.term_weights, self.compute_loss,
            self.should_stop,
        )  # fmt: skip

    def should_run(self, hook: Callback) -> bool:
        """Whether a hook looks after this step."""
        return self.step > 0 and (self.is_last() or (self.step % hook.every == 0 and not self.nonfinite_streak))

    def total_steps(self) -> int:
        """How many steps there will be; 0 where that is not known yet."""
        return 0 if self.schedule.steps == UNKNOWN_STEPS else self.schedule.steps

    def is_last(self) -> bool:
        """Whether no step follows."""
        return self.step == self.schedule.steps

    def should_save(self) -> bool:
        """Whether a checkpoint is due. One before the first step shows that the disk can take it; while steps are not
        finite there is none, so that there is one from before."""
        return self.is_last() or (self.step % self.config.save_every == 0 and not self.nonfinite_streak)

    def save(self) -> None:
        """A checkpoint of now, unless there is one."""
        state: dict[str, Any] = {
            "offset": self.skipped_steps, "skipped": self.nonfinite_streak, "rolled_back": self.rolled_back,
            "steps": self.schedule.steps, "scale": [self.grad_scaler.scale, self.grad_scaler.growth_tracker],
        }  # fmt: skip
        if self.dist.is_main and not self.checkpoints.has(self.step) and self.weights_are_finite():
            with self.timer.measure("saving"):
                scores = self.logger.validation_scores()
                self.logger.lines.sync()  # or a power cut could leave a checkpoint without its lines
                self.checkpoints.save(self.step, self.model, self.optimizers, state, scores, self.config.save_every)
        self.dist.barrier()

    def should_stop(self) -> bool:
        """Whether any of the processes was asked to stop."""
        agreed = int(self.dist.all_reduce_max(self.stop_signal.signal, self.device))
        self.stop_signal.signal = (
            agreed or self.stop_signal.signal
        )  # which may have come meanwhile, and is for the next time
        return agreed > 0

    def load_checkpoint(self, every: int) -> dict[str, Any] | None:
        """What the first process takes, all processes take: they may not see the same."""
        state = self.checkpoints.load_latest(self.model, self.optimizers, every) if self.dist.is_main else None
        step = int(self.dist.all_reduce_max(-1 if state is None else state["step"], self.device))
        if state is None and step >= 0:
            state = load_checkpoint(self.checkpoints.path(step), self.model, self.optimizers)
        return state

    def resume(self, every: int = 1) -> bool:
        """Go back to the newest checkpoint, if there is one; what was logged after it is forgotten."""
        state = self.load_checkpoint(every)
        if state is None:
            self.logger.truncate_after(0)  # of checkpoints that somebody has removed
            return False
        self.step, self.skipped_steps, self.nonfinite_streak = state["step"], state["offset"], state["skipped"]
        self.rolled_back = state["rolled_back"]
        self.grad_scaler.scale, self.grad_scaler.growth_tracker = state["scale"]
        self.schedule = replace(self.schedule, steps=state["steps"])
        self.start_step, self.last_log = self.step, (self.step, self.timer.seconds("training"))
        self.logger.truncate_after(self.step)
        return True

    def check_weights(self) -> bool:
        """Whether all weights are finite, where that matters: others must not be looked at, nor saved."""
        due = self.should_save() or any(self.should_run(hook) for hook in self.callbacks)
        return not due or self.weights_are_finite()

    def weights_are_finite(self) -> bool:
        """Whether all weights are."""
        return all(bool(weight.detach().isfinite().all()) for weight in self.model.parameters())

    def rollback(self, metrics: dict[str, float]) -> None:
        """Once, go back to the last checkpoint and pass over the samples since; the second time, give up."""
        here, slots = self.step, (self.step + self.skipped_steps) * self.loader.size
        cause = format_metrics(metrics)
        if self.rolled_back:
            norms = {name: str(float(weight.detach().norm())) for name, weight in self.model.named_parameters()}
            seen = {"step": here, "samples_before": slots, "norms": norms} | {k: str(v) for k, v in metrics.items()}
            if self.dist.is_main:
                write_json(self.checkpoints.folder.parent / "diverged.json", seen)
            raise BertGPTError("BG501", f"training diverged at step {here}", cause=cause, hint=DIVERGENCE_HINT)
        self.resume(self.config.save_every)  # one that an undisturbed run has too
        self.skipped_steps += here - self.step
        self.rolled_back, self.nonfinite_streak = True, 0
        self.logger.info(f"step {here} is not finite ({cause}): back to step {self.step}, past these samples")

    def resolve_time_budget(self, progress: console.Progress) -> None:
        """Where the length is a time: how many steps that is, from the speed of the first ones."""
        if self.config.max_seconds is None or self.schedule.steps != UNKNOWN_STEPS:
            return
        spent = self.dist.all_reduce_max(self.timer.seconds("training"), self.device)
        if self.step == self.start_step + TIMING_WARMUP:
            self.speed_start = (self.step, spent)
        if self.step < TIMING_STEPS or self.step <= self.start_step + TIMING_WARMUP:
            return
        seconds = (spent - self.speed_start[1]) / (self.step - self.speed_start[0])
        steps = self.step + max(0, round((self.config.max_seconds - spent) / seconds))
        self.schedule = replace(self.schedule, steps=steps)
        progress.total = steps
        self.logger.info(f"{seconds:.3g} s a step: {steps:,} steps")

    # --------------------------------------------------------------------------------------------- the journal

    def log_step(self, metrics: dict[str, float], progress: console.Progress) -> None:
        """What a step came to: a line every so often, and the live line."""
        if not self.step_applied:
            scaled = f"; losses are scaled by {self.grad_scaler.scale:g} from here" if self.grad_scaler.enabled else ""
            self.logger.info(f"step {self.step} is not finite ({format_metrics(metrics)}), and is not taken{scaled}")
        steps, seconds = self.step - self.last_log[0], self.timer.seconds("training") - self.last_log[1]
        speed = self.config.tokens_per_step * steps / max(seconds, 1e-9)
        if self.step_applied and (self.is_last() or self.step % self.config.log_every == 0):
            self.log("train", metrics | {"seconds": round(seconds, 3), "tokens_per_s": round(speed)})
            self.last_log = (self.step, self.timer.seconds("training"))
        usage = "" if self.config.peak_flops is None else f"{self.mfu(speed):.0%} MFU, "
        live = f"step {self.step:,}, loss {metrics['loss']:.3f}, lr {metrics['lr']:.2e}, {speed:,.0f} tokens/s, {usage}"
        progress.update(self.step, said=f"{live}{peak_memory(self.device) / 1e9:.1f} GB")

    def mfu(self, speed: float) -> float:
        """The share of what the devices could compute that the model uses, at so many tokens a second."""
        flops = self.config.flops_per_step / self.config.tokens_per_step * speed
        return flops / (self.config.peak_flops or math.inf)

    def log(self, split: str, figures: dict[str, Any]) -> None:
        """One line of the journal."""
        if not all(math.isfinite(value) for value in figures.values() if isinstance(value, float)):
            raise BertGPTError("BG501", f"the loss of {split} at step {self.step} is not finite", hint=DIVERGENCE_HINT)
        tokens, samples = self.step * self.config.tokens_per_step, self.step * self.loader.size
        self.logger.write({"step": self.step, "tokens": tokens, "samples": samples, "split": split} | figures)


def format_metrics(figures: Mapping[str, Any]) -> str:
    """What tells that something went wrong."""
    words = {"loss": "loss", "grad_norm": "gradient norm"}
    return ", ".join(f"{word} {figures[key]:.4g}" for key, word in words.items() if key in figures)
