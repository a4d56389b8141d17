"""The training loop: steps, callbacks, checkpoints, recovery. The same for every model and objective.

    prefetch -> forward and backward of each micro-batch -> all-reduce -> clip -> optimizer step -> log, validate, save

A step is a pure function of the parameters, the optimizer state and its number: its samples, masks and dropout follow
from the seed and that number. So a stopped run resumes to the same bytes, and callbacks cannot change it.
"""

import gc
import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from bertgpt.data.loading.loader import Prefetcher, StepLoader
from bertgpt.ops.torch_private import scale_all
from bertgpt.training.callback import Callback, TrainerView
from bertgpt.training.checkpoints import Checkpoints, load_checkpoint
from bertgpt.training.device import DTYPES, peak_memory, seed_torch, to_device, to_tensors
from bertgpt.training.distributed import DistContext, GradientReducer, StopSignal
from bertgpt.training.logger import RunLogger
from bertgpt.training.metrics import METRIC_SUMS, MetricAccumulator, format_metrics
from bertgpt.training.objectives import LossTerm, Objective
from bertgpt.training.optimizers import UNKNOWN_STEPS, GradScaler, LRSchedule, Optimizers
from bertgpt.training.timer import Timer
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import write_json
from bertgpt.utils.rng import hash_key

DROPOUT_STREAM = 11  # keeps the draws of dropout apart from those of other purposes
MAX_NONFINITE_STEPS = 3  # in a row, before the run rolls back
DIVERGENCE_HINT = "lower --lr or a longer --warmup helps; earlier checkpoints are kept, diverged.json may tell more"
TIMING_WARMUP = 5  # first steps of a process are slower: compilation, first touches of memory
TIMING_STEPS = 20  # steps of a process after which the speed is known to a run with a time budget, with the warmup


@dataclass(frozen=True)
class TrainerConfig:
    """Settings of the loop, beside those of the optimizers and the schedule."""

    tokens_per_step: int
    seed: int
    grad_clip: float = 1.0
    log_every: int = 10
    save_every: int = 500
    precision: str = "fp32"  # bf16 and fp16 by autocast; parameters stay fp32
    max_seconds: float | None = None  # time budget; the number of steps follows from the measured speed
    flops_per_step: float = 0.0
    peak_flops: float | None = None  # of all devices together, per second; None if unknown


@dataclass
class StepBatch:
    """What this rank computes in a step: its micro-batches, each a list of batches, one per objective."""

    micro_batches: list[list[Any]]
    counts: list[list[dict[str, int]]]  # of each batch: the number of targets of each loss term


@dataclass(eq=False)
class Trainer:
    """Runs training: steps, validation, checkpoints, recovery."""

    model: Any  # a Transformer or a SequenceClassifier
    objectives: dict[type, Objective]  # by the type of batch
    term_weights: dict[str, float]  # of loss terms; 1 by default
    loader: StepLoader
    optimizers: Optimizers
    schedule: LRSchedule
    config: TrainerConfig
    checkpoints: Checkpoints
    logger: RunLogger
    callbacks: Sequence[Callback]
    dist: DistContext
    device: torch.device

    def __post_init__(self) -> None:
        self.grad_reducer = GradientReducer(self.dist, [p for p in self.model.parameters() if p.requires_grad])
        self.grad_scaler, self.timer, self.stop_signal = GradScaler(self.config.precision), Timer(), StopSignal()
        self.step = 0
        self.skipped_steps = 0  # whose samples were skipped after a divergence
        self.step_applied = True  # whether the last step updated the parameters
        self.nonfinite_streak = 0  # non-finite steps in a row that fp16's loss scale does not explain
        self.rolled_back = False
        self.start_step = 0  # of this process, or since the rollback
        self.speed_start = (0, 0.0)  # a step, and the seconds of training until then
        self.last_log = (0, 0.0)  # the same for the last line of metrics.jsonl

    # ------------------------------------------------------------------------------------------- one step

    def prepare(self, micro_batches: list[list[Any]]) -> StepBatch:
        """Count targets and turn arrays into tensors. Runs in the prefetch thread."""
        counts = [[self.objectives[type(batch)].count_targets(batch) for batch in micro] for micro in micro_batches]
        pin = self.device.type == "cuda"
        if pin:
            torch.cuda.set_device(self.device)  # the current device is a property of the thread
        return StepBatch([[to_tensors(batch, pin) for batch in micro] for micro in micro_batches], counts)

    def train_step(self, step_batch: StepBatch) -> dict[str, float] | None:
        """Accumulate gradients over all micro-batches and ranks, then update the parameters once.

        Each loss term is normalized by its number of targets in the whole step. A step with a non-finite loss or
        gradient is not applied. Returns the metrics, or None if a stop signal came in the middle.
        """
        self.model.train()
        sums, term_scales = MetricAccumulator(self.device), self.loss_scales(step_batch.counts)
        last = len(step_batch.micro_batches) - 1
        for number, (batches, counts) in enumerate(zip(step_batch.micro_batches, step_batch.counts, strict=True)):
            if self.stop_signal.signum and self.dist.world_size == 1:  # peers would wait for this rank
                self.optimizers.zero_grad()
                return None
            self.seed_dropout(number)
            for batch, count in zip(batches, counts, strict=True):
                if number == last and batch is batches[-1]:
                    self.grad_reducer.start_last_microbatch()
                terms = self.compute_loss(batch)
                loss: Any = sum(terms[name].loss * (term_scales[name] * self.grad_scaler.scale) for name in count)
                loss.backward()
                sums.add(terms, count)
        gradients = self.grad_reducer.finish()  # summed over ranks: `term_scales` have divided by the targets of all
        self.dist.all_reduce(sums.sums)  # in place
        if self.grad_scaler.scale != 1.0:
            scale_all(gradients, 1 / self.grad_scaler.scale)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        lr = self.schedule.lr(self.step)
        metrics = sums.metrics(self.term_weights) | {"lr": lr, "grad_norm": float(norm)}
        self.apply(lr, finite=math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"]))
        return metrics

    def apply(self, lr: float, finite: bool) -> None:
        """Update the parameters if the step is finite; else drop its gradients."""
        if finite:
            self.optimizers.step(lr)
        else:
            self.optimizers.zero_grad()
        self.step_applied = finite
        explained = self.grad_scaler.update(finite)  # by a loss scale that was too large for fp16
        if not explained:
            self.nonfinite_streak = 0 if finite else self.nonfinite_streak + 1

    def loss_scales(self, counts: list[list[dict[str, int]]]) -> dict[str, float]:
        """What the summed loss of each term is multiplied by: its weight over its targets in the step, on all ranks."""
        terms = list(METRIC_SUMS)  # also those without targets on this rank: all ranks reduce the same tensor
        totals = [float(sum(count.get(term, 0) for micro in counts for count in micro)) for term in terms]
        if self.dist.world_size > 1:
            totals = self.dist.all_reduce(torch.tensor(totals, device=self.device)).tolist()
        return {t: self.term_weights.get(t, 1.0) / max(total, 1.0) for t, total in zip(terms, totals, strict=True)}

    def compute_loss(self, batch: Any) -> dict[str, LossTerm]:
        """The loss terms of a batch, wherever its tensors are, in the precision of the run."""
        precision = self.config.precision
        with torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32"):
            return self.objectives[type(batch)](self.model, to_device(batch, self.device))

    def seed_dropout(self, number: int) -> None:
        """Seed dropout by the run's seed and the micro-batch's first sample, so that resuming repeats its draws."""
        partition = self.loader.partition
        first = self.data_step * self.loader.batch_size
        first += (number * partition.world_size + partition.rank) * self.loader.micro_batch_size
        key = hash_key(self.config.seed + DROPOUT_STREAM, np.array([first], np.uint64))[0]
        seed_torch(int(key >> np.uint64(1)), self.device)  # as a non-negative int64

    @property
    def data_step(self) -> int:
        """The next step in the order of the data: ahead of `step` by those skipped after a divergence."""
        return self.step + self.skipped_steps

    # ------------------------------------------------------------------------------------------- the loop

    def train(self) -> None:
        """Train to the last step, from the latest checkpoint if there is one, or until a stop signal."""
        if self.resume():
            self.logger.info(f"resuming from step {self.step}")
        # Hosts of other kinds may have initialized or read other bits.
        self.dist.broadcast([*self.model.parameters(), *self.model.buffers(), *self.optimizers.moments()])
        gc.collect()
        gc.freeze()  # what exists now stays to the end and need not be scanned again
        try:
            self.run_steps()
        finally:
            gc.unfreeze()
        if self.stop_signal.signum:
            done = f"saved step {self.step}" if self.checkpoints.has(self.step) else f"stopped after step {self.step}"
            self.logger.info(f"{done}; rerun to resume")
            signal.raise_signal(self.stop_signal.signum)
            raise KeyboardInterrupt  # the signal was ignored, as SIGINT is in a script's background jobs
        if self.dist.is_main:  # of a process that was killed while it pruned
            self.checkpoints.prune(self.logger.validation_scores(), self.config.save_every)
        if self.nonfinite_streak or not self.weights_are_finite():
            raise BertGPTError("BG501", "loss or gradients are not finite", hint=DIVERGENCE_HINT)

    def run_steps(self) -> None:
        """Steps, each followed by what is due after it. On resuming, what was due but not done yet is done first."""
        progress = console.Progress("training", self.total_steps(), in_bytes=False, initial=self.step)
        batches = self.batches()
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
                        metrics = self.train_step(next(batches))
                    if metrics is None:
                        continue
                    self.step += 1
                    self.log_step(metrics, progress)
                    if self.has_diverged():
                        self.rollback(metrics)
                        batches.close()
                        batches = self.batches()
                    self.resolve_time_budget(progress)
        finally:
            batches.close()
            progress.end()

    @contextmanager
    def explain_oom(self) -> Iterator[None]:
        """Turn an out-of-memory error into one that names the options that need less."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            rows = self.loader.batch_size // self.loader.partition.world_size
            sizes = [n for n in range(1, self.loader.micro_batch_size) if rows % n == 0]
            options = [f"--micro-batch-size {n}" for n in sizes[-1:]] + ["--activation-checkpointing"]
            hint = f"use {' or '.join(options)}; the run resumes from its last checkpoint"
            cause = str(error).splitlines()[0]
            raise BertGPTError("BG406", "out of memory in a training step", cause=cause, hint=hint) from None

    def batches(self) -> Prefetcher:
        """The batches of the steps that follow, prefetched."""
        return Prefetcher(self.loader.steps(self.data_step), self.prepare)

    def is_last(self) -> bool:
        """Whether no step follows."""
        return self.step == self.schedule.steps

    def total_steps(self) -> int:
        """The length of the run; 0 if it is not known yet."""
        return 0 if self.schedule.steps == UNKNOWN_STEPS else self.schedule.steps

    def should_stop(self) -> bool:
        """Whether any rank got a stop signal."""
        agreed = int(self.dist.all_reduce_max(self.stop_signal.signum, self.device))
        self.stop_signal.signum = agreed or self.stop_signal.signum  # one that came meanwhile is for the next call
        return agreed > 0

    # ------------------------------------------------------------------------------------------- callbacks

    def view(self) -> TrainerView:
        """What callbacks may see."""
        model, objectives = self.model, self.objectives
        return TrainerView(
            model, self.step, self.dist, self.device, objectives, self.term_weights, self.compute_loss, self.should_stop
        )

    def run_callbacks(self) -> None:
        """Run the callbacks that are due, unless metrics.jsonl has their metrics of this step already."""
        for callback in self.callbacks:
            if not self.should_run(callback):
                continue
            if self.dist.all_reduce_max(self.logger.has(callback.name, self.step), self.device):
                continue
            with self.timer.measure("callbacks"), self.explain_oom():
                metrics = callback(self.view())
            if metrics is not None:
                self.log(callback.name, metrics)

    def should_run(self, callback: Callback) -> bool:
        """Whether a callback is due after this step."""
        return self.step > 0 and (self.is_last() or (self.step % callback.every == 0 and not self.nonfinite_streak))

    # ------------------------------------------------------------------------------- checkpoints and recovery

    def should_save(self) -> bool:
        """Whether a checkpoint is due: also before the first step, to show that the disk can take it, but not while
        steps are non-finite, so that there is one from before."""
        return self.is_last() or (self.step % self.config.save_every == 0 and not self.nonfinite_streak)

    def save(self) -> None:
        """Save a checkpoint, unless this step has one or the parameters are not finite."""
        state: dict[str, Any] = {
            "skipped_steps": self.skipped_steps, "nonfinite_streak": self.nonfinite_streak,
            "rolled_back": self.rolled_back, "total_steps": self.schedule.steps,
            "grad_scale": [self.grad_scaler.scale, self.grad_scaler.growth_tracker],
        }  # fmt: skip
        if self.dist.is_main and not self.checkpoints.has(self.step) and self.weights_are_finite():
            with self.timer.measure("saving"):
                scores = self.logger.validation_scores()
                self.logger.jsonl.sync()  # or a power cut could leave a checkpoint without its metrics
                self.checkpoints.save(self.step, self.model, self.optimizers, state, scores, self.config.save_every)
        self.dist.barrier()

    def load_latest_checkpoint(self, every: int) -> dict[str, Any] | None:
        """Load the checkpoint that the main rank chooses, on all ranks; None if there is none."""
        state = self.checkpoints.load_latest(self.model, self.optimizers, every) if self.dist.is_main else None
        step = int(self.dist.all_reduce_max(-1 if state is None else state["step"], self.device))
        if state is None and step >= 0:
            state = load_checkpoint(self.checkpoints.path(step), self.model, self.optimizers)
        return state

    def resume(self, every: int = 1) -> bool:
        """Go back to the latest checkpoint of those at every so many steps; metrics after it are removed."""
        state = self.load_latest_checkpoint(every)
        if state is None:
            self.logger.truncate_after(0)  # of a run whose checkpoints somebody has removed
            return False
        self.step, self.skipped_steps, self.rolled_back = state["step"], state["skipped_steps"], state["rolled_back"]
        self.nonfinite_streak = state["nonfinite_streak"]
        self.grad_scaler.scale, self.grad_scaler.growth_tracker = state["grad_scale"]
        self.schedule = replace(self.schedule, steps=state["total_steps"])
        self.start_step, self.last_log = self.step, (self.step, self.timer.seconds("training"))
        self.logger.truncate_after(self.step)
        return True

    def has_diverged(self) -> bool:
        """Whether too many steps in a row were non-finite, or parameters that are about to be used are."""
        if self.nonfinite_streak:
            return self.nonfinite_streak >= MAX_NONFINITE_STEPS
        in_use = self.should_save() or any(self.should_run(callback) for callback in self.callbacks)
        return in_use and not self.weights_are_finite()

    def weights_are_finite(self) -> bool:
        """Whether all parameters are finite."""
        return all(bool(p.detach().isfinite().all()) for p in self.model.parameters())

    def rollback(self, metrics: dict[str, float]) -> None:
        """Go back to the last checkpoint and skip the batches since then. The second time, give up."""
        diverged_at, cause = self.step, format_metrics(metrics)
        if self.rolled_back:
            norms = {name: str(float(p.detach().norm())) for name, p in self.model.named_parameters()}
            samples_before = self.data_step * self.loader.batch_size  # with those skipped: where to look in the data
            report = {"step": diverged_at, "samples_before": samples_before, "norms": norms}
            if self.dist.is_main:
                path = self.checkpoints.folder.parent / "diverged.json"
                write_json(path, report | {name: str(value) for name, value in metrics.items()})
            raise BertGPTError("BG501", f"training diverged at step {diverged_at}", cause=cause, hint=DIVERGENCE_HINT)
        self.resume(self.config.save_every)  # a checkpoint that a run without interruptions has too
        self.skipped_steps += diverged_at - self.step
        self.rolled_back, self.nonfinite_streak = True, 0
        skipping = f"rolling back to step {self.step} and skipping these batches"
        self.logger.info(f"step {diverged_at}: non-finite ({cause}), {skipping}")

    def resolve_time_budget(self, progress: console.Progress) -> None:
        """With a time budget: fix the number of steps once this process has measured its speed."""
        if self.config.max_seconds is None or self.schedule.steps != UNKNOWN_STEPS:
            return
        spent = self.dist.all_reduce_max(self.timer.seconds("training"), self.device)
        if self.step == self.start_step + TIMING_WARMUP:
            self.speed_start = (self.step, spent)
        if self.step < self.start_step + TIMING_STEPS:
            return
        seconds = (spent - self.speed_start[1]) / (self.step - self.speed_start[0])
        steps = self.step + max(0, round((self.config.max_seconds - spent) / seconds))
        self.schedule = replace(self.schedule, steps=steps)
        progress.total = steps
        self.logger.info(f"{seconds:.3g} s per step: training for {steps:,} steps")
        self.schedule.warn_if_short()

    # ------------------------------------------------------------------------------------------------ logging

    def log_step(self, metrics: dict[str, float], progress: console.Progress) -> None:
        """Log a step: a line of metrics.jsonl every `log_every` steps, and the progress line."""
        if not self.step_applied:
            rescaled = f"; loss scale {self.grad_scaler.scale:g} from here on" if self.grad_scaler.enabled else ""
            self.logger.info(f"step {self.step}: non-finite ({format_metrics(metrics)}), update skipped{rescaled}")
        steps, seconds = self.step - self.last_log[0], self.timer.seconds("training") - self.last_log[1]
        speed = self.config.tokens_per_step * steps / max(seconds, 1e-9)
        if self.step_applied and (self.is_last() or self.step % self.config.log_every == 0):
            self.log("train", metrics | {"seconds": round(seconds, 3), "tokens_per_s": round(speed)})
            self.last_log = (self.step, self.timer.seconds("training"))
        mfu = "" if self.config.peak_flops is None else f"{self.mfu(speed):.0%} MFU, "
        line = f"step {self.step:,}, loss {metrics['loss']:.3f}, lr {metrics['lr']:.2e}, {speed:,.0f} tokens/s, {mfu}"
        progress.update(self.step, status=f"{line}{peak_memory(self.device) / 1e9:.1f} GB")

    def mfu(self, tokens_per_s: float) -> float:
        """Model FLOPs utilisation: the share of the devices' peak that the model's arithmetic uses."""
        flops = self.config.flops_per_step / self.config.tokens_per_step * tokens_per_s
        return flops / (self.config.peak_flops or math.inf)

    def log(self, split: str, metrics: dict[str, Any]) -> None:
        """Write a line of metrics.jsonl; refuses values that are not finite."""
        if not all(math.isfinite(value) for value in metrics.values() if isinstance(value, float)):
            raise BertGPTError("BG501", f"{split} loss is not finite at step {self.step}", hint=DIVERGENCE_HINT)
        # Trained on since the start: those skipped after a divergence do not count.
        tokens, samples = self.step * self.config.tokens_per_step, self.step * self.loader.batch_size
        self.logger.log({"step": self.step, "tokens": tokens, "samples": samples, "split": split} | metrics)
