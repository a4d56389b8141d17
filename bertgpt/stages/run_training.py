"""A run from its beginning, or from where it was stopped, to its end: what `pretrain` and `finetune` have in common."""

import gc
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.trainer import Trainer
from bertgpt.training.device import tune_malloc
from bertgpt.training.distributed import DistContext, translate_peer_errors
from bertgpt.training.run_directory import RunDirectory
from bertgpt.utils import console


def run_training(
    folder: RunDirectory,
    group: DistContext,
    device: torch.device,
    facts: dict[str, Any],  # for run.json
    settings: tuple[dict[str, Any], dict[str, Any]],  # what must not change while it goes on, and what may
    tokenizer: Tokenizer,
    anew: bool | None,  # always, never, or if anything has changed
    prepared: Callable[[], Trainer],
    finished: Callable[[Trainer], None],  # what is published in the end, by the first process
) -> dict[str, Any]:
    """Train, and say what came of it; nothing is done if that is there already."""
    with (
        translate_peer_errors(group),
        folder.locked(facts | {"world": group.world}) if group.is_main else nullcontext(),
    ):
        done = folder.open(*settings, tokenizer, anew) if group.is_main else False
        if group.all_reduce_max(done, device):  # the others waited here until the folder was ready
            console.note(f"nothing to do: {folder.path} is finished")
            return folder.metrics()
        if device.type == "cpu":
            tune_malloc()
        trainer = prepared()
        if group.is_main:
            folder.update_metadata({"flops_per_step": trainer.config.flops_per_step})
        if trainer.resume():
            trainer.logger.info(f"goes on after step {trainer.step}")
        gc.collect()
        gc.freeze()  # what is here now stays to the end, and need not be looked through again
        try:
            trainer.train()
        finally:
            gc.unfreeze()
        if group.is_main:
            finished(trainer)
            folder.update_metadata({"seconds": trainer.timer.summary()})
        group.barrier()
        return folder.metrics() | {"seconds": trainer.timer.summary()}
