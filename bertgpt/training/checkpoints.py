"""Checkpoints: weights, moments and the step, each folder whole or not there at all.

    step-00001000/  model.safetensors  optim.safetensors  state.json  MANIFEST.json (hashes, written last)

Every draw is a function of the seed and the step, so a few numbers are all of the state that is not a tensor. There is
no pointer to the latest: whole folders are found by looking.
"""

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bertgpt.data.format import wrong_version
from bertgpt.hub.pretrained import weights_of
from bertgpt.model import PaddedEmbedding
from bertgpt.training.optimizers import Optimizers
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import check_space, ensure_writable_folder, fault_point, publish_atomic, sha256_of, write_json
from bertgpt.utils.version import FORMAT_VERSION

KEEP_LATEST = 2  # the newest whole ones, which are always there
FULL = (errno.EFBIG, errno.ENOSPC, errno.EDQUOT)


class Checkpoints:
    """Those of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sound: dict[str, bool] = {}  # which of them were written or verified here, and whether they can be used

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizers: Optimizers,
        state: dict[str, Any],
        scores: Mapping[int, float],
        every: int = 1,
    ) -> Path:
        """Put one into place, and take away the oldest beyond those that are kept, and the best by held-out loss."""
        aside, target = self.folder / ".step.tmp", self.folder / f"step-{step:08}"
        self.remove_partial()
        ensure_writable_folder(aside)
        needed = checkpoint_bytes(model, optimizers)
        check_space(self.folder, needed)
        try:
            save_file(weights_of(model), aside / "model.safetensors", metadata={"format": "pt"})
            fault_point("checkpoint.model")
            save_file(optimizer_tensors(optimizers.state_dict(), model), aside / "optim.safetensors")
            fault_point("checkpoint.optim")
            write_json(aside / "state.json", {"version": FORMAT_VERSION, "step": step} | state)
            names = ("model.safetensors", "optim.safetensors", "state.json")
            write_json(aside / "MANIFEST.json", {name: sha256_of(aside / name) for name in names})
        except BaseException as error:
            shutil.rmtree(aside, ignore_errors=True)
            if is_disk_full(error):
                raise disk_full_error(target, needed) from None
            raise
        publish_atomic(aside, target)
        self.sound[target.name] = True
        self.prune(scores, every)
        return target

    def prune(self, scores: Mapping[int, float], every: int = 1) -> None:
        """Keep the newest whole ones, the newest that was due after so many steps, and the best."""
        whole = [folder for folder in self.all() if self.is_valid(folder)]
        regular = [folder for folder in whole if step_of(folder) % every == 0]  # to which a divergence leads back
        kept = {*whole[:KEEP_LATEST], *regular[:1], *best_of(whole, scores)}
        for folder in whole:
            if folder not in kept:
                gone = folder.with_name(f".{folder.name}.old")  # so that no half of it is taken for a broken one
                folder.rename(gone)
                fault_point("checkpoint.prune")
                shutil.rmtree(gone)

    def remove_partial(self) -> None:
        """Away with what a process that is dead has left: the run is locked."""
        for left in self.folder.glob(".step*"):
            shutil.rmtree(left, ignore_errors=True)

    def all(self) -> list[Path]:
        """Newest first; by number, so that ten thousand comes after nine thousand."""
        numbered = [(int(f.name[5:]), f) for f in self.folder.glob("step-*") if f.name[5:].isdecimal()]
        return [folder for _, folder in sorted(numbered, reverse=True)]

    def path(self, step: int) -> Path:
        """Where that of a step is, or would be."""
        return self.folder / f"step-{step:08}"

    def has(self, step: int) -> bool:
        """Whether there is a whole one of a step."""
        folder = self.path(step)
        return folder.exists() and self.is_valid(folder)

    def is_valid(self, folder: Path) -> bool:
        """Whether a checkpoint is whole; each is hashed once."""
        if folder.name not in self.sound:
            self.sound[folder.name] = is_valid(folder)
        return self.sound[folder.name]

    def valid(self) -> Iterator[Path]:
        """Those that are, newest first; what is broken is said and passed over. If all are, that is an error."""
        folders = self.all()
        for folder in folders:
            if self.is_valid(folder):
                yield folder
            else:
                console.note(f"{folder} is not whole, and is passed over")
        if folders:  # and whoever was asking could use none of them
            cause, hint = ", ".join(folder.name for folder in folders), "give --overwrite to begin anew"
            raise BertGPTError(
                "BG320", "no checkpoint of this run is whole", path=str(self.folder), cause=cause, hint=hint
            )

    def latest(self) -> Path | None:
        """The newest one that is whole; nothing if there is none at all."""
        return next(self.valid(), None)

    def load_latest(self, model: nn.Module, optimizers: Optimizers, every: int = 1) -> dict[str, Any] | None:
        """Put the newest one back that can be read, of those that come every so many steps.

        Its state comes out, or nothing if there is none at all.
        """
        for folder in self.valid():
            if step_of(folder) % every:
                continue
            try:
                return load_checkpoint(folder, model, optimizers)
            except BertGPTError as error:
                if error.code != "BG318":
                    raise
                console.note(f"{folder} is passed over: {error.message}, {error.cause}")
                self.sound[folder.name] = False
        return None

    def best(self, scores: Mapping[int, float]) -> Path | None:
        """The one with the lowest held-out loss."""
        return next(iter(best_of([folder for folder in self.all() if self.is_valid(folder)], scores)), None)


def step_of(folder: Path) -> int:
    """The step of a checkpoint."""
    return int(folder.name[5:])


def best_of(folders: list[Path], scores: Mapping[int, float]) -> list[Path]:
    """The one with the lowest score, the newest of equals; none if none has one."""
    scored = [folder for folder in folders if step_of(folder) in scores]
    return [min(scored, key=lambda folder: scores[step_of(folder)])] if scored else []


def is_valid(folder: Path) -> bool:
    """Whether every file is as it was written, and none has come in."""
    try:
        hashes = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
        there = {path.name for path in folder.iterdir()} - {"MANIFEST.json"}
        return there == set(hashes) and all(sha256_of(folder / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def is_disk_full(error: BaseException) -> bool:
    """Whether it says that the disk takes no more; safetensors has words for it only."""
    if isinstance(error, SafetensorError):
        return any(f"os error {number})" in str(error) for number in FULL)
    return isinstance(error, OSError) and error.errno in FULL


def disk_full_error(folder: Path, needed: int) -> BertGPTError:
    """What to say when the disk has taken a part of a checkpoint."""
    cause = f"about {needed:,} bytes are needed, {shutil.disk_usage(folder.parent).free:,} are free"
    hint = "make room and run the same command again: the checkpoints before are kept"
    return BertGPTError("BG403", "the disk is full", path=str(folder), cause=cause, hint=hint)


def check_version(content: dict[str, Any], file: Path) -> None:
    """Refuse a run directory of another format version."""
    if content.get("version") != FORMAT_VERSION:
        raise wrong_version(content.get("version", 1), file, "train it again: the same command with --overwrite")


def state_of(folder: Path) -> dict[str, Any]:
    """The state in a checkpoint, if it is one that this version can read."""
    file = folder / "state.json"
    state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    check_version(state, file)
    return state


def load_checkpoint(folder: Path, model: nn.Module, optimizers: Optimizers) -> dict[str, Any]:
    """Put weights and moments back; the state comes out."""
    state = state_of(folder)
    moments: dict[str, dict[str, Tensor]] = {}
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
        padded = padded_embeddings(model)
        for key, value in load_file(folder / "optim.safetensors").items():
            name, _, moment = key.rpartition(".")
            if name in padded and value.ndim == 2:
                value = torch.cat((value, value.new_zeros(padded[name].num_embeddings - len(value), value.size(1))))
            moments.setdefault(name, {})[moment] = value
        if moments and moments.keys() != set(optimizers.names.values()):
            raise RuntimeError("the moments are those of other weights")
    except (RuntimeError, SafetensorError) as error:
        cause = str(error).strip().splitlines()[-1].strip()
        raise BertGPTError("BG318", "this checkpoint is of another shape", path=str(folder), cause=cause) from None
    optimizers.load_state_dict(moments)
    return state


def padded_embeddings(model: nn.Module) -> dict[str, PaddedEmbedding]:
    """Embeddings, which have rows that only fill up memory; they are zero, and are not written."""
    return {f"{name}.weight": each for name, each in model.named_modules() if isinstance(each, PaddedEmbedding)}


def optimizer_tensors(moments: dict[str, dict[str, Tensor]], model: nn.Module) -> dict[str, Tensor]:
    """Moments under the names of weights."""
    found, padded = {}, padded_embeddings(model)
    for name, state in moments.items():
        for moment, value in state.items():
            kept = value[: padded[name].vocab_size] if name in padded and value.ndim == 2 else value
            found[f"{name}.{moment}"] = kept.detach().cpu().contiguous()
    return found


def checkpoint_bytes(model: nn.Module, optimizers: Optimizers) -> int:
    """What a checkpoint takes, about."""
    tensors = [*model.parameters(), *(value for state in optimizers.state_dict().values() for value in state.values())]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
