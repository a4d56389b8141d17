"""What a run runs on: the device and its precision, and batches on their way there."""

import ctypes
import os
import platform
import re
import resource
import sys
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from bertgpt.model import Transformer
from bertgpt.ops.kernels import compile_or_fallback, has_bf16
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MMAP_MAX, TRIM_THRESHOLD, NEVER = -4, -1, -1  # by their numbers in malloc.h
PEAK_BF16_FLOPS = {  # dense products of bf16 in a second, by the makers' sheets
    "GB200": 2.5e15, "B200": 2.25e15, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12,
    "L40S": 362e12, "L4": 121e12, "A10": 125e12, "RTX 4090": 165e12, "RTX 3090": 71e12, "V100": 125e12, "T4": 65e12,
}  # fmt: skip


def resolve_device(wanted: str) -> torch.device:
    """The device of this process; `auto` takes a GPU where there is one."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        here["mps"] &= "WORLD_SIZE" not in os.environ  # its processes have no way to talk
        wanted = next(name for name, there in here.items() if there)
    if not here[wanted]:
        hint = f"there is {', '.join(name for name, there in here.items() if there)}; --device auto takes the best"
        raise BertGPTError("BG410", f"there is no {wanted} device here", hint=hint)
    if wanted != "cuda":
        return torch.device(wanted)
    place, count = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))), torch.cuda.device_count()
    if place.index >= count:
        raise BertGPTError(
            "BG410", f"there are {count} GPUs here, and more processes", hint="a smaller --nproc_per_node"
        )
    torch.cuda.set_device(place)
    return place


def resolve_precision(wanted: str, device: torch.device) -> str:
    """What products are computed in; `auto` is bf16 where the device has instructions for it."""
    able = has_bf16(device)
    if wanted == "auto":
        return "bf16" if able else "fp32"
    if wanted == "bf16" and device.type == "cuda" and not able:
        hint = "--precision fp16 is as fast on it"
        raise BertGPTError("BG410", "this GPU has no bf16", cause=torch.cuda.get_device_name(device), hint=hint)
    return wanted


def peak_flops(device: torch.device) -> float | None:
    """The products that a device could make in a second, if that is known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16_FLOPS.items() if re.search(rf"\b{part}\b", name)), None)


def peak_memory(device: torch.device) -> int:
    """The most bytes that were held at once, there or in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def seed_torch(key: int, device: torch.device) -> None:
    """Decide what torch draws next, which is dropout alone."""
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(key)
    elif device.type == "mps":
        torch.mps.manual_seed(key)


def use_deterministic_algorithms() -> None:
    """Those that add in the same order every time. By themselves, CUDA's and compiled code's do not."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def enable_activation_checkpointing(model: Transformer) -> None:
    """Keep only what enters each block, and compute what is inside again on the way back (Chen et al., 2016)."""
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def tune_malloc() -> None:
    """Have the C library keep what is freed for the next step, instead of giving it back and fetching it anew.

    Every large tensor of a step is otherwise fresh pages, which the system has to find and clear (glibc's mallopt).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, NEVER)


def compile_model(model: Transformer, device: torch.device, dropout: float) -> None:
    """Have the model compiled when it is trained; where that cannot be it stays as it is, and that is said."""
    if dropout and torch.__version__.startswith("2.13") and device.type == "cuda":
        console.note("not compiled: torch 2.13 draws wrong dropout masks in compiled code on CUDA")
        return
    plain, fast = model.forward, compile_or_fallback(model.forward, "the model")

    def forward(*given: Any, **named: Any) -> Any:
        return (fast if model.training else plain)(*given, **named)  # in evaluation rows come in many shapes

    model.forward = forward  # type: ignore[method-assign]


def to_tensors(part: Any, pin: bool) -> Any:
    """The arrays of a batch as tensors; pinned memory is what a GPU fetches from while it computes."""
    values = {field.name: torch.from_numpy(getattr(part, field.name)) for field in fields(part)}
    return replace(part, **{name: value.pin_memory() if pin else value for name, value in values.items()})


def to_device(part: Any, device: torch.device) -> Any:
    """The tensors of a batch where they are computed with, only there as wide as torch wants them."""
    moved = {field.name: getattr(part, field.name).to(device, non_blocking=True) for field in fields(part)}
    wide = {name: value if value.is_floating_point() else value.long() for name, value in moved.items()}
    return replace(part, **wide)
