"""Checkpoints: weights, moments and the step, each folder whole or not there at all.

    step-00001000/  model.safetensors  optim.safetensors  state.json  MANIFEST.json (hashes, written last)

Every draw is a function of the seed and the step, so the step is all of the state that is not a tensor. There is no
pointer to the latest: whole folders are found by looking.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bertgpt import console
from bertgpt.errors import BertGPTError
from bertgpt.files import make_folder, publish, sha256_of, write_json
from bertgpt.model import Transformer
from bertgpt.saved import weights_of

KEPT = 2  # whole ones that are always there
MOMENTS = ("exp_avg", "exp_avg_sq")


def write(folder: Path, step: int, model: Transformer, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Path:
    """Put a checkpoint into place, and take away the oldest beyond those that are kept."""
    aside, target = folder / ".step.tmp", folder / f"step-{step:08}"
    shutil.rmtree(aside, ignore_errors=True)
    make_folder(aside)
    save_file(weights_of(model), aside / "model.safetensors", metadata={"format": "pt"})
    save_file(moments_of(model, optimizer), aside / "optim.safetensors")
    write_json(aside / "state.json", {"step": step} | state)
    names = ("model.safetensors", "optim.safetensors", "state.json")
    write_json(aside / "MANIFEST.json", {name: sha256_of(aside / name) for name in names})
    publish(aside, target)
    for old in sorted(folder.glob("step-*"), reverse=True)[KEPT:]:
        shutil.rmtree(old)
    return target


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; what is broken is said and passed over."""
    for found in sorted(folder.glob("step-*"), reverse=True):
        if is_whole(found):
            return found
        console.note(f"{found} is not whole, and is passed over")
    return None


def is_whole(folder: Path) -> bool:
    """Whether every file is as it was written."""
    try:
        hashes = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
        return all(sha256_of(folder / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


def read(folder: Path, model: Transformer, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put weights and moments back; the state comes out."""
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
        moments = load_file(folder / "optim.safetensors")
        for name, weight in model.named_parameters():
            state: dict[str, Tensor] = {"step": moments[f"{name}.step"]}
            for moment in MOMENTS:
                full = torch.zeros_like(weight)
                kept = moments[f"{name}.{moment}"]
                full[: len(kept)] = kept
                state[moment] = full
            optimizer.state[weight] = state
    except (KeyError, RuntimeError) as error:
        cause = str(error).strip().splitlines()[-1].strip()
        raise BertGPTError("BG318", "this checkpoint is of another shape", path=str(folder), cause=cause) from None
    state_json: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return state_json


def moments_of(model: Transformer, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers, under the names of weights; rows that only fill up stay inside."""

    def each() -> Iterator[tuple[str, Tensor]]:
        for name, weight in model.named_parameters():
            state = optimizer.state.get(weight) or {
                "step": torch.zeros(()),
                **{m: torch.zeros_like(weight) for m in MOMENTS},
            }
            rows = model.config.vocab if name == "tokens.weight" else len(weight)
            yield f"{name}.step", state["step"].detach().cpu()
            for moment in MOMENTS:
                yield f"{name}.{moment}", state[moment].detach()[:rows].cpu().contiguous()

    return dict(each())
