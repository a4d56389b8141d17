"""Checkpoints: model, optimizer state and step, written atomically and verified by hash before they are used.

    step-00001000/  model.safetensors  optim.safetensors  state.json  MANIFEST.json (hashes, written last)

All random numbers are functions of the seed and the step, so state.json holds a few numbers and no generator state.
There is no pointer to the latest checkpoint: valid folders are found by looking.
"""

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
from bertgpt.utils.disk import DISK_FULL, check_space, disk_errno
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import ensure_writable_folder, fault_point, publish_atomic, sha256_of, write_json
from bertgpt.utils.json_files import parse_json, read_json_object
from bertgpt.utils.version import FORMAT_VERSION

STATE_KEYS = ("skipped_steps", "nonfinite_streak", "rolled_back", "total_steps", "grad_scale")  # of the trainer
KEEP_LATEST = 2  # newest valid checkpoints, which are never pruned


class Checkpoints:
    """The checkpoints of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.verified: dict[str, bool] = {}  # by folder name, those saved or verified by this process: whether valid

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizers: Optimizers,
        state: dict[str, Any],
        val_scores: Mapping[int, float],
        save_every: int = 1,
    ) -> Path:
        """Save a checkpoint atomically, then prune old ones."""
        temp, target = self.folder / ".step.tmp", self.path(step)
        self.remove_partial()
        ensure_writable_folder(temp)
        needed = checkpoint_bytes(model, optimizers)
        check_space(self.folder, needed)
        try:
            save_file(weights_of(model), temp / "model.safetensors", metadata={"format": "pt"})
            fault_point("checkpoint.model")
            save_file(optimizer_tensors(optimizers.state_dict(), model), temp / "optim.safetensors")
            fault_point("checkpoint.optim")
            write_json(temp / "state.json", {"version": FORMAT_VERSION, "step": step} | state)
            names = ("model.safetensors", "optim.safetensors", "state.json")
            write_json(temp / "MANIFEST.json", {name: sha256_of(temp / name) for name in names})
        except BaseException as error:
            shutil.rmtree(temp, ignore_errors=True)
            if disk_errno(error) in DISK_FULL:
                raise disk_full_error(target, needed) from None
            raise
        publish_atomic(temp, target)
        self.verified[target.name] = True
        self.prune(val_scores, save_every)
        return target

    def prune(self, val_scores: Mapping[int, float], save_every: int = 1) -> None:
        """Keep the newest valid checkpoints, the newest whose step is a multiple of `save_every`, and the best."""
        valid = [folder for folder in self.all() if self.is_valid(folder)]
        regular = [folder for folder in valid if step_of(folder) % save_every == 0]  # a rollback needs one of these
        keep = {*valid[:KEEP_LATEST], *regular[:1], *best_of(valid, val_scores)}
        for folder in valid:
            if folder not in keep:
                removed = folder.with_name(f".{folder.name}.old")  # or a partial removal would look like corruption
                folder.rename(removed)
                fault_point("checkpoint.prune")
                shutil.rmtree(removed)

    def remove_partial(self) -> None:
        """Remove partial checkpoints of a killed process. The run is locked, so no other process writes one."""
        for partial in self.folder.glob(".step*"):
            shutil.rmtree(partial, ignore_errors=True)

    def all(self) -> list[Path]:
        """All checkpoint folders, newest first, sorted by number: step 10000 after step 9000."""
        numbered = [(int(f.name[5:]), f) for f in self.folder.glob("step-*") if f.name[5:].isdecimal()]
        return [folder for _, folder in sorted(numbered, reverse=True)]

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of a step, whether it exists or not."""
        return self.folder / f"step-{step:08}"

    def has(self, step: int) -> bool:
        """Whether there is a valid checkpoint of a step."""
        folder = self.path(step)
        return folder.exists() and self.is_valid(folder)

    def is_valid(self, folder: Path) -> bool:
        """Whether a checkpoint is complete and matches its hashes, which are computed once."""
        if folder.name not in self.verified:
            self.verified[folder.name] = is_valid(folder)
        return self.verified[folder.name]

    def valid(self) -> Iterator[Path]:
        """Valid checkpoints, newest first; corrupt ones are skipped with a note.

        Raises an error when the caller has rejected all of them, so that training never starts over unasked.
        """
        folders = self.all()
        for folder in folders:
            if self.is_valid(folder):
                yield folder
            else:
                console.info(f"skipping corrupt checkpoint {folder}")
        if folders:
            cause = ", ".join(folder.name for folder in folders)
            hint = "--overwrite starts over"
            raise BertGPTError("BG320", "no valid checkpoint", path=str(self.folder), cause=cause, hint=hint)

    def latest(self) -> Path | None:
        """The newest valid checkpoint; None if there are no checkpoints."""
        return next(self.valid(), None)

    def load_latest(self, model: nn.Module, optimizers: Optimizers, save_every: int = 1) -> dict[str, Any] | None:
        """Load the newest valid checkpoint whose step is a multiple of `save_every`.

        Returns its state; None if there are no checkpoints.
        """
        for folder in self.valid():
            if step_of(folder) % save_every:
                continue
            try:
                return load_checkpoint(folder, model, optimizers)
            except BertGPTError as error:
                if error.code != "BG318":
                    raise
                console.info(f"skipping checkpoint {folder}: {error.message}: {error.cause}")
                self.verified[folder.name] = False
        return None

    def best(self, val_scores: Mapping[int, float]) -> Path | None:
        """The valid checkpoint with the lowest validation score; None if none has one."""
        return next(iter(best_of([folder for folder in self.all() if self.is_valid(folder)], val_scores)), None)


def step_of(folder: Path) -> int:
    """The step of a checkpoint folder."""
    return int(folder.name[5:])


def best_of(folders: list[Path], val_scores: Mapping[int, float]) -> list[Path]:
    """The folder with the lowest validation score, the first of equals; empty if none has a score."""
    scored = [folder for folder in folders if step_of(folder) in val_scores]
    return [min(scored, key=lambda folder: val_scores[step_of(folder)])] if scored else []


def is_valid(folder: Path) -> bool:
    """Whether a checkpoint has exactly the files of its manifest, with the same hashes."""
    try:
        hashes = parse_json((folder / "MANIFEST.json").read_text(encoding="utf-8"))
        names = {path.name for path in folder.iterdir()} - {"MANIFEST.json"}
        return names == set(hashes) and all(sha256_of(folder / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def disk_full_error(folder: Path, needed: int) -> BertGPTError:
    """Error for a checkpoint that does not fit on the disk."""
    cause = f"about {needed:,} bytes are needed, {shutil.disk_usage(folder.parent).free:,} are free"
    hint = "free disk space and rerun to resume: earlier checkpoints are kept"
    return BertGPTError("BG403", "the disk is full", path=str(folder), cause=cause, hint=hint)


def check_version(content: dict[str, Any], file: Path) -> None:
    """Refuse a file of a run that has another format version."""
    if content.get("version") != FORMAT_VERSION:
        raise wrong_version(content.get("version", 1), file, "rerun the same command with --overwrite to train again")


def read_state(folder: Path) -> dict[str, Any]:
    """Read state.json of a checkpoint."""
    file = folder / "state.json"
    state = read_json_object(file, "BG318", "state of this checkpoint")
    check_version(state, file)
    if missing := [name for name in ("step", *STATE_KEYS) if name not in state]:
        raise BertGPTError("BG318", f"state of this checkpoint has no {missing[0]}", path=str(file))
    return state


def load_checkpoint(folder: Path, model: nn.Module, optimizers: Optimizers) -> dict[str, Any]:
    """Load model and optimizer state from a checkpoint; returns the content of state.json."""
    state = read_state(folder)
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
            raise RuntimeError("optimizer state has other parameters than the model")
    except (RuntimeError, SafetensorError) as error:
        cause = str(error).strip().splitlines()[-1].strip()
        raise BertGPTError("BG318", "checkpoint does not match the model", path=str(folder), cause=cause) from None
    optimizers.load_state_dict(moments)
    return state


def padded_embeddings(model: nn.Module) -> dict[str, PaddedEmbedding]:
    """Embeddings with padding rows, by parameter name. Padding rows are zero and are not stored."""
    return {f"{name}.weight": each for name, each in model.named_modules() if isinstance(each, PaddedEmbedding)}


def optimizer_tensors(moments: dict[str, dict[str, Tensor]], model: nn.Module) -> dict[str, Tensor]:
    """Optimizer state as flat tensors, named parameter.moment, without padding rows."""
    tensors, padded = {}, padded_embeddings(model)
    for name, state in moments.items():
        for moment, value in state.items():
            stored = value[: padded[name].vocab_size] if name in padded and value.ndim == 2 else value
            tensors[f"{name}.{moment}"] = stored.detach().cpu().contiguous()
    return tensors


def checkpoint_bytes(model: nn.Module, optimizers: Optimizers) -> int:
    """Approximate size of a checkpoint."""
    tensors = [*model.parameters(), *(value for state in optimizers.state_dict().values() for value in state.values())]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
