"""The processes that share a run, and what they are asked from outside: gradients in common, signals, an end."""

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from bertgpt.utils.errors import BertGPTError

BUCKET_NUMEL = 1 << 23  # weights whose gradients travel together, at most about: 32 MB
SIGNAL_DEBOUNCE_S = 2.0  # seconds


@dataclass(frozen=True)
class DistContext:
    """The processes of a run: this one is number `rank` of `world`. The first one alone writes."""

    world: int = 1
    rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over all processes, in every one of them."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def all_reduce_max(self, value: float, device: torch.device) -> float:
        """The largest of a number of each process."""
        if self.world == 1:
            return value
        values = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return float(values)

    def barrier(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier()


class GradientReducer:
    """Gradients added over all processes, a bucket after the other, while the way back still goes on.

    The way back comes to the last weights first, so buckets are filled in that order, and are sent in it: every process
    must send the same bucket next, even where it has no gradients for some.
    """

    def __init__(self, group: DistContext, weights: Iterable[torch.nn.Parameter]) -> None:
        self.group, self.weights = group, list(weights)
        self.buckets: list[list[torch.nn.Parameter]] = []
        self.armed, self.sent = False, 0
        self.missing: list[int] = []
        self.pending: list[tuple[Tensor, Any]] = []
        if group.world == 1:
            return
        size = BUCKET_NUMEL
        for weight in reversed(self.weights):
            if size + weight.numel() > BUCKET_NUMEL:
                self.buckets.append([])
                size = 0
            self.buckets[-1].append(weight)
            size += weight.numel()
        for number, bucket in enumerate(self.buckets):
            for weight in bucket:
                weight.register_post_accumulate_grad_hook(partial(self.on_grad_ready, number))  # type: ignore[no-untyped-call]

    def start_last_microbatch(self) -> None:
        """Gradients that come from here on are the last of this step."""
        self.missing, self.sent, self.armed = [len(bucket) for bucket in self.buckets], 0, True

    def on_grad_ready(self, number: int, _: Tensor) -> None:
        """A weight of a bucket has its gradient."""
        if self.armed:
            self.missing[number] -= 1
            while self.sent < len(self.buckets) and self.missing[self.sent] <= 0:
                self.send()

    def send(self) -> None:
        """The next bucket; where there is no gradient it is zero."""
        flat = torch.cat([grad_or_zeros(weight).flatten() for weight in self.buckets[self.sent]])
        self.pending.append((flat, dist.all_reduce(flat, async_op=True)))
        self.sent += 1

    def finish(self) -> list[Tensor]:
        """Send what is left, wait for all, and give every weight its whole gradient."""
        while self.sent < len(self.buckets):
            self.send()
        for bucket, (flat, handle) in zip(self.buckets, self.pending, strict=True):
            handle.wait()
            for weight, whole in zip(bucket, torch.split(flat, [w.numel() for w in bucket]), strict=True):
                grad_or_zeros(weight).copy_(whole.view_as(weight))
        self.pending, self.armed = [], False
        return [grad_or_zeros(weight) for weight in self.weights]


@contextmanager
def translate_peer_errors(group: DistContext) -> Iterator[None]:
    """Where another process is gone, this one says just that: what happened is said there."""
    try:
        yield
    except dist.DistError as error:
        raise peer_lost(error) from None
    except RuntimeError as error:
        if group.world == 1 or not any(
            word in str(error) for word in ("Connection closed", "Connection reset", "gloo")
        ):
            raise
        raise peer_lost(error) from None


def peer_lost(error: Exception) -> BertGPTError:
    """What to say then."""
    cause, hint = str(error).strip().splitlines()[-1], "its own message says why; the same command goes on"
    return BertGPTError("BG411", "another process of this run has ended", cause=cause, hint=hint)


def grad_or_zeros(weight: torch.nn.Parameter) -> Tensor:
    """The gradient of a weight: zero where there is none, in one process as in many."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def init_distributed(device: torch.device) -> DistContext:
    """The group that torchrun has started, or a group of one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return DistContext()
    if not dist.is_initialized():
        place = device if device.type == "cuda" else None
        dist.init_process_group("nccl" if place else "gloo", device_id=place)
    return DistContext(world, dist.get_rank())


class StopSignal:
    """Whether somebody wants this process to stop: Ctrl-C and SIGTERM are noted, and a second one ends it at once.

    torchrun passes on what the terminal has sent to everybody already, so a signal that follows at once is the same.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.when = 0.0
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python lets nobody listen
            self.previous = {each: signal.signal(each, self.handle) for each in (signal.SIGINT, signal.SIGTERM)}
        return self

    def handle(self, signum: int, frame: Any) -> None:
        """Somebody does."""
        echo = "WORLD_SIZE" in os.environ and time.monotonic() - self.when < SIGNAL_DEBOUNCE_S
        if self.signal and not echo:
            self.__exit__()
            signal.raise_signal(signum)
        self.signal, self.when = self.signal or signum, time.monotonic()

    def __exit__(self, *_: Any) -> None:
        for each, handler in self.previous.items():
            signal.signal(each, handler)
        self.previous = {}
