"""What a run runs on: batches on their way to the device, and the processes that share a step."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def tensors(part: Any, pin: bool) -> Any:
    """The arrays of a batch as tensors; pinned memory is what a GPU fetches from while it computes."""
    values = {field.name: torch.from_numpy(getattr(part, field.name)) for field in fields(part)}
    return replace(part, **{name: value.pin_memory() if pin else value for name, value in values.items()})


def on_device(part: Any, device: torch.device) -> Any:
    """The tensors of a batch where they are computed with, only there as wide as torch wants them."""
    moved = {field.name: getattr(part, field.name).to(device, non_blocking=True) for field in fields(part)}
    return replace(part, **{name: value.long() for name, value in moved.items()})


@dataclass(frozen=True)
class Group:
    """The processes of a run: this one is number `rank` of `world`. The first one alone writes."""

    world: int = 1
    rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def add(self, values: Tensor) -> Tensor:
        """The sum over all processes, in every one of them."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def most(self, value: int, device: torch.device) -> int:
        """The largest of a number of each process."""
        values = torch.tensor(value, device=device)
        if self.world > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def add_gradients(self, weights: Iterable[torch.nn.Parameter]) -> None:
        """The same of gradients, all in one message; where there is none it is zero, in one process as in many."""
        gradients = []
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            gradients.append(weight.grad)
        if self.world > 1:
            flat = self.add(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, whole in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
                gradient.copy_(whole.view_as(gradient))

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier()


def join(device: str) -> tuple[Group, torch.device]:
    """The group that torchrun has started, or a group of one; and the device of this process."""
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device(device, local) if device == "cuda" else torch.device(device)
    if device == "cuda":
        torch.cuda.set_device(place)
    if world == 1:
        return Group(), place
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    return Group(world, dist.get_rank()), place
