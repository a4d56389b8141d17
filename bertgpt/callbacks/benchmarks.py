"""Benchmarks during training: the accuracy of a suite every few steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bertgpt.config.options import EvalOptions
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.evals.choices import multiple_choice
from bertgpt.evals.probe import check_probe_data, fit_and_predict
from bertgpt.evals.suites import load_items, load_labeled
from bertgpt.evals.tables import Row
from bertgpt.evals.tasks import LabeledDataset
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.embed import embed
from bertgpt.training.callback import TrainerView
from bertgpt.utils.errors import BertGPTError


@dataclass(frozen=True)
class BenchmarkCallback:
    """Accuracy of the current model on a suite, without baselines: they do not change during training."""

    name: str  # agnews (linear probe) or hellaswag (multiple choice)
    every: int
    items: LabeledDataset | list[Row]
    tokenizer: Tokenizer
    objective: str
    length: int

    @classmethod
    def load(
        cls, name: str, every: int, data: str | None, limit: int, tokenizer: Tokenizer, objective: str, length: int
    ) -> "BenchmarkCallback":
        """Load the items of a suite, so that errors in them are reported before training starts."""
        options = EvalOptions.model_validate({"suite": name, "data": data, "limit": limit})
        if name == "agnews":
            dataset = load_labeled(name, options)
            check_probe_data(dataset)
            return cls(name, every, dataset, tokenizer, objective, length)
        if objective == "mlm":
            raise BertGPTError("BG222", f"{name} needs a causal model")
        return cls(name, every, load_items(name, options)[0], tokenizer, objective, length)

    def __call__(self, view: TrainerView) -> dict[str, Any] | None:
        """Accuracy over all items; each rank evaluates its share."""
        model = PretrainedModel(view.model.eval(), self.tokenizer, self.objective, seq_len=self.length)
        if isinstance(self.items, LabeledDataset):
            splits = self.items.train, self.items.test
            train, test = (
                gather_over_ranks(view, split.texts, partial(embed, model), model.model.config.dim) for split in splits
            )
            train_labels, test_labels = (split.label_ids(self.items.classes) for split in splits)
            predictions = fit_and_predict(train, test, train_labels, full=False).predictions
            return {"accuracy": float((predictions == test_labels).mean())}

        def correct(rows: Sequence[Row]) -> NDArray[Any]:
            return np.array(multiple_choice(model, rows, self.name).items["acc_norm"])[:, None]

        return {"accuracy": float(gather_over_ranks(view, self.items, correct, 1).mean())}


def gather_over_ranks(
    view: TrainerView, items: Sequence[Any], evaluate: Callable[[Any], NDArray[Any]], width: int
) -> NDArray[Any]:
    """Results of all items, (items, width), on every rank; each rank evaluates every world_size-th item."""
    dist = view.dist
    results = torch.zeros((len(items), width), device=view.device)
    local_items = items[dist.rank :: dist.world_size]
    if local_items:
        local = torch.as_tensor(evaluate(local_items), dtype=results.dtype)
        results[dist.rank :: dist.world_size] = local.to(results.device)
    gathered: NDArray[Any] = dist.all_reduce(results).cpu().numpy()
    return gathered
