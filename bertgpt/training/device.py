"""Device, precision, memory and compilation; moving batches to the device."""

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
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # parameters of mallopt, from malloc.h
PEAK_BF16_FLOPS = {  # peak dense bf16 FLOP/s, from the vendors' datasheets
    "GB200": 2.5e15, "B200": 2.25e15, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12,
    "L40S": 362e12, "L4": 121e12, "A10": 125e12, "RTX 4090": 165e12, "RTX 3090": 71e12, "V100": 125e12, "T4": 65e12,
}  # fmt: skip


def resolve_device(name: str) -> torch.device:
    """The device of this process; `auto` picks CUDA, then MPS, then the CPU."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        available["mps"] &= "WORLD_SIZE" not in os.environ  # MPS has no backend for collectives
        name = next(device for device, is_available in available.items() if is_available)
    if not available[name]:
        devices = ", ".join(device for device, is_available in available.items() if is_available)
        hint = f"available: {devices}; --device auto picks the best"
        raise BertGPTError("BG410", f"device {name} is not available", hint=hint)
    if name != "cuda":
        return torch.device(name)
    device, count = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))), torch.cuda.device_count()
    if device.index >= count:
        hint = f"--nproc_per_node {count}"
        raise BertGPTError("BG410", f"more processes than GPUs: this machine has {count}", hint=hint)
    torch.cuda.set_device(device)
    return device


def resolve_precision(precision: str, device: torch.device) -> str:
    """The autocast precision; `auto` is bf16 if the device has instructions for it, else fp32."""
    supported = has_bf16(device)
    if precision == "auto":
        return "bf16" if supported else "fp32"
    if precision == "bf16" and device.type == "cuda" and not supported:
        hint = "--precision fp16 is as fast on it"
        raise BertGPTError(
            "BG410", "this GPU does not support bf16", cause=torch.cuda.get_device_name(device), hint=hint
        )
    return precision


def peak_flops(device: torch.device) -> float | None:
    """Peak bf16 FLOP/s of a device, if known; the denominator of MFU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for model, flops in PEAK_BF16_FLOPS.items() if re.search(rf"\b{model}\b", name)), None)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated on a CUDA device, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def seed_torch(key: int, device: torch.device) -> None:
    """Seed torch's global generators, which only dropout uses."""
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(key)
    elif device.type == "mps":
        torch.mps.manual_seed(key)


def use_deterministic_algorithms() -> None:
    """Make CUDA and compiled kernels add in the same order every time, which by default they do not."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def enable_activation_checkpointing(model: Transformer) -> None:
    """Activation checkpointing: keep the input of each block, recompute the rest in backward (Chen et al., 2016)."""
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def tune_malloc() -> None:
    """Have glibc keep freed memory for the next step instead of returning it to the system.

    Otherwise every large tensor of a step is allocated as fresh pages, which the kernel has to find and zero.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)  # never mmap large allocations: freeing them would unmap their pages
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never shrink the heap


def compile_model(model: Transformer, device: torch.device, dropout: float) -> None:
    """torch.compile the forward pass of training; where that fails it runs eagerly, with a note."""
    if dropout and torch.__version__.startswith("2.13") and device.type == "cuda":
        console.info("not compiled: torch 2.13 draws wrong dropout masks in compiled code on CUDA")
        return
    eager, compiled = model.forward, compile_or_fallback(model.forward, "the model")

    def forward(*args: Any, **kwargs: Any) -> Any:
        return (compiled if model.training else eager)(*args, **kwargs)  # batches of evaluation have many shapes

    model.forward = forward  # type: ignore[method-assign]


def to_tensors(batch: Any, pin: bool) -> Any:
    """A batch of arrays as tensors, in pinned memory if `pin`, from where they are copied to a GPU asynchronously."""
    tensors = {field.name: torch.from_numpy(getattr(batch, field.name)) for field in fields(batch)}
    return replace(batch, **{name: tensor.pin_memory() if pin else tensor for name, tensor in tensors.items()})


def to_device(batch: Any, device: torch.device) -> Any:
    """Copy a batch of tensors to the device, and only there widen integers to int64, as torch's indexing needs."""
    moved = {field.name: getattr(batch, field.name).to(device, non_blocking=True) for field in fields(batch)}
    return replace(batch, **{name: t if t.is_floating_point() else t.long() for name, t in moved.items()})
