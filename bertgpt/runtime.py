"""Batches on their way to the device."""

from dataclasses import fields, replace
from typing import Any

import torch


def tensors(part: Any, pin: bool) -> Any:
    """The arrays of a batch as tensors; pinned memory is what a GPU fetches from while it computes."""
    values = {field.name: torch.from_numpy(getattr(part, field.name)) for field in fields(part)}
    return replace(part, **{name: value.pin_memory() if pin else value for name, value in values.items()})


def on_device(part: Any, device: torch.device) -> Any:
    """The tensors of a batch where they are computed with, only there as wide as torch wants them."""
    moved = {field.name: getattr(part, field.name).to(device, non_blocking=True) for field in fields(part)}
    return replace(part, **{name: value.long() for name, value in moved.items()})
