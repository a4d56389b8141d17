"""Distributed data parallelism: ranks, gradient all-reduce, stop signals, and errors of lost peers."""

import ctypes
import os
import signal
import sys
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

BUCKET_NUMEL = 1 << 23  # parameters of a gradient bucket, at most about: 32 MB
SIGNAL_DEBOUNCE_S = 2.0
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class DistContext:
    """Rank and world size of this process. Only rank 0 writes files."""

    world_size: int = 1
    rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def all_reduce_max(self, value: float, device: torch.device) -> float:
        """Maximum over all ranks."""
        if self.world_size == 1:
            return value
        values = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return float(values)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank the values of the main rank, in place."""
        for tensor in tensors if self.world_size > 1 else ():
            dist.broadcast(tensor.detach(), 0)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()


class GradientReducer:
    """Sums gradients over all ranks, bucket by bucket, overlapped with the backward pass of the last micro-batch.

    The backward pass reaches the last parameters first, so buckets are filled in reverse order. They are all-reduced in
    that order on every rank, even where a rank has no gradient for some parameters: collectives must match.
    """

    def __init__(self, context: DistContext, parameters: Iterable[torch.nn.Parameter]) -> None:
        self.context, self.parameters = context, list(parameters)
        self.buckets: list[list[torch.nn.Parameter]] = []
        self.last_microbatch, self.next_bucket = False, 0
        self.missing: list[int] = []  # gradients that each bucket still lacks
        self.pending: list[tuple[Tensor, Any]] = []  # flattened gradients and the handle of their all-reduce
        if context.world_size == 1:
            return
        numel = BUCKET_NUMEL
        for parameter in reversed(self.parameters):
            if numel + parameter.numel() > BUCKET_NUMEL:
                self.buckets.append([])
                numel = 0
            self.buckets[-1].append(parameter)
            numel += parameter.numel()
        for index, bucket in enumerate(self.buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(partial(self.on_grad_ready, index))  # type: ignore[no-untyped-call]

    def start_last_microbatch(self) -> None:
        """Gradients accumulated from now on are complete."""
        self.missing, self.next_bucket, self.last_microbatch = [len(bucket) for bucket in self.buckets], 0, True

    def on_grad_ready(self, index: int, _: Tensor) -> None:
        """A parameter of a bucket has accumulated its gradient."""
        if self.last_microbatch:
            self.missing[index] -= 1
            while self.next_bucket < len(self.buckets) and self.missing[self.next_bucket] <= 0:
                self.all_reduce_next()

    def all_reduce_next(self) -> None:
        """Start the all-reduce of the next bucket; missing gradients count as zero."""
        flat = torch.cat([grad_or_zeros(parameter).flatten() for parameter in self.buckets[self.next_bucket]])
        self.pending.append((flat, dist.all_reduce(flat, async_op=True)))
        self.next_bucket += 1

    def finish(self) -> list[Tensor]:
        """All-reduce the remaining buckets, wait, and write the sums to the parameters' gradients."""
        while self.next_bucket < len(self.buckets):
            self.all_reduce_next()
        for bucket, (flat, handle) in zip(self.buckets, self.pending, strict=True):
            handle.wait()
            for parameter, summed in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
                grad_or_zeros(parameter).copy_(summed.view_as(parameter))
        self.pending, self.last_microbatch = [], False
        return [grad_or_zeros(parameter) for parameter in self.parameters]


@contextmanager
def translate_peer_errors(context: DistContext) -> Iterator[None]:
    """Turn errors of a lost connection into one that says so: the peer reports what went wrong."""
    try:
        yield
    except dist.DistError as error:
        raise peer_lost(error) from None
    except RuntimeError as error:
        markers = ("Connection closed", "Connection reset", "gloo")
        if context.world_size == 1 or not any(marker in str(error) for marker in markers):
            raise
        raise peer_lost(error) from None


def peer_lost(error: Exception) -> BertGPTError:
    """Error for a collective that failed because another rank exited."""
    cause = str(error).strip().splitlines()[-1]
    hint = "its own error message says why; rerun to resume from the last checkpoint"
    return BertGPTError("BG411", "a peer rank exited", cause=cause, hint=hint)


def grad_or_zeros(parameter: torch.nn.Parameter) -> Tensor:
    """The gradient of a parameter, set to zero where there is none, so that one rank computes what several do."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def init_distributed(device: torch.device) -> DistContext:
    """Join the process group that torchrun started; world size 1 without torchrun."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return DistContext()
    stop_with_parent()
    if not dist.is_initialized():
        device_id = device if device.type == "cuda" else None
        dist.init_process_group("nccl" if device_id else "gloo", device_id=device_id)
    return DistContext(world_size, dist.get_rank())


def stop_with_parent() -> None:
    """Have the kernel send SIGTERM to this rank when torchrun dies, even of SIGKILL, which it cannot forward."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class StopSignal:
    """Records SIGINT (Ctrl-C) and SIGTERM, so that training saves and stops; a second one kills at once.

    torchrun forwards what the terminal has already sent to every process, so under it a repetition within
    SIGNAL_DEBOUNCE_S is the same signal.
    """

    def __init__(self) -> None:
        self.signum = 0  # of the first signal; 0 if there was none
        self.signal_time = 0.0
        self.previous: dict[int, Any] = {}  # handlers

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # Python allows signal handlers there only
            self.previous = {signum: signal.signal(signum, self.handle) for signum in (signal.SIGINT, signal.SIGTERM)}
        return self

    def handle(self, signum: int, frame: Any) -> None:
        """Record a signal; on the second one, restore the previous handlers and raise it."""
        forwarded = "WORLD_SIZE" in os.environ and time.monotonic() - self.signal_time < SIGNAL_DEBOUNCE_S
        if self.signum and not forwarded:
            self.__exit__()
            signal.raise_signal(signum)
        self.signum, self.signal_time = self.signum or signum, time.monotonic()

    def __exit__(self, *_: Any) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
        self.previous = {}
