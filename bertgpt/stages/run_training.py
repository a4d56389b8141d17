"""A run from its beginning, or from where it was stopped, to its end: what `pretrain` and `finetune` have in common."""

import gc
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.trainer import Trainer
from bertgpt.training.device import keep_memory
from bertgpt.training.distributed import Group, together
from bertgpt.training.run_directory import RunFolder
from bertgpt.utils import console


def carry_out(
    folder: RunFolder,
    group: Group,
    device: torch.device,
    facts: dict[str, Any],  # for run.json
    settings: tuple[dict[str, Any], dict[str, Any]],  # what must not change while it goes on, and what may
    tokenizer: Tokenizer,
    anew: bool | None,  # always, never, or if anything has changed
    prepared: Callable[[], Trainer],
    finished: Callable[[Trainer], None],  # what is published in the end, by the first process
) -> dict[str, Any]:
    """Train, and say what came of it; nothing is done if that is there already."""
    with together(group), folder.held(facts | {"world": group.world}) if group.leads else nullcontext():
        done = folder.begin(*settings, tokenizer, anew) if group.leads else False
        if group.most(done, device):  # the others waited here until the folder was ready
            console.note(f"nothing to do: {folder.path} is finished")
            return folder.figures()
        if device.type == "cpu":
            keep_memory()
        trainer = prepared()
        if group.leads:
            folder.tell({"flops_per_step": trainer.settings.flops_per_step})
        if trainer.resume():
            trainer.journal.note(f"goes on after step {trainer.step}")
        gc.collect()
        gc.freeze()  # what is here now stays to the end, and need not be looked through again
        try:
            trainer.run()
        finally:
            gc.unfreeze()
        if group.leads:
            finished(trainer)
            folder.tell({"seconds": trainer.clock.shares()})
        group.wait()
        return folder.figures() | {"seconds": trainer.clock.shares()}
