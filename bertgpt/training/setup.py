"""What the stages `pretrain` and `finetune` set up in the same way."""

import os
from pathlib import Path
from typing import Any

import torch

from bertgpt.config.fields import flag_name
from bertgpt.config.training_options import FinetuneOptions, PretrainOptions
from bertgpt.training.device import peak_flops, tune_malloc, use_deterministic_algorithms
from bertgpt.training.run_directory import RunDirectory, read_config
from bertgpt.utils import console
from bertgpt.utils.disk import check_space
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import ensure_writable_folder

TrainingOptions = PretrainOptions | FinetuneOptions
CHECKPOINT_BYTES = 12  # per parameter: fp32 parameters and two moments
STEP_OPTIONS = ("optimizer", "lr", "tokens_per_step", "schedule", "weight_decay")  # what a step is


def silence_other_ranks() -> None:
    """Only the main rank prints."""
    if int(os.environ.get("RANK", "0")):
        console.silence_non_main()


def overwrite_mode(options: TrainingOptions) -> bool | None:
    """Whether an existing run is replaced: always (True), if anything changed (None), or never (False)."""
    return True if options.overwrite else None if options.overwrite_if_changed else False


def accumulation_steps(batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """The micro-batches per step and rank. Raises if the batch is not divisible, and suggests sizes that divide it."""
    if micro_batch_size and batch_size % (micro_batch_size * world_size) == 0:
        return batch_size // (micro_batch_size * world_size)
    ranks = f" x {world_size} ranks" if world_size > 1 else ""
    sizes = [n for n in range(1, batch_size // world_size + 1) if batch_size % (n * world_size) == 0]
    nearest = sorted(sorted(sizes, key=lambda n: abs(n - micro_batch_size))[:2])
    raise BertGPTError(
        "BG204",
        f"global batch of {batch_size} rows is not divisible by micro-batch size {micro_batch_size}{ranks}",
        hint=f"--micro-batch-size {' or '.join(map(str, nearest))} divides it" if nearest else None,
    )


def prepare_device(options: TrainingOptions, device: torch.device) -> None:
    """Settings of the process that hold for a whole run."""
    if device.type == "cpu":
        tune_malloc()
    if options.deterministic:
        use_deterministic_algorithms()


def total_peak_flops(device: torch.device, world_size: int) -> float | None:
    """Peak FLOPs per second of all devices together; None if unknown."""
    peak = peak_flops(device)
    return peak and peak * world_size


def check_checkpoint_space(run: RunDirectory, parameters: int) -> None:
    """Before the first checkpoint: the directory is writable, and has room for a new one beside the last."""
    if run.dist.is_main and not run.checkpoints.all():
        ensure_writable_folder(run.checkpoints.folder)
        check_space(run.checkpoints.folder, 2 * CHECKPOINT_BYTES * parameters)


def recorded(options: TrainingOptions, unrecorded: tuple[str, ...]) -> dict[str, Any]:
    """The options that decide the result, by name."""
    return {name: value for name, value in options.model_dump(mode="json").items() if name not in unrecorded}


def note_changed_options(options: PretrainOptions) -> None:
    """Tell how the options differ from those of the run of --init, where no preset gives them: they are defaults."""
    run = Path(options.init or "")
    if options.init is None or options.preset is not None or not (run / "config.yaml").is_file():
        return
    before, now = read_config(run).get("options", {}), options.model_dump(mode="json")
    names = [name for name in STEP_OPTIONS if name in before and before[name] != now[name]]
    if changed := [f"{flag_name(name)} {now[name]} instead of {before[name]}" for name in names]:
        console.info(f"other options than {run}: {', '.join(changed)}; --preset has those of a preset")
