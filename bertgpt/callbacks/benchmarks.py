"""A suite that is asked again and again while a model is trained."""

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
from bertgpt.evals.probe import Parts, check, fit_and_predict
from bertgpt.evals.suites import SuiteData
from bertgpt.evals.tables import Row
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.embed import embed
from bertgpt.utils.errors import BertGPTError


@dataclass(frozen=True)
class BenchmarkCallback:
    """A hook: what a suite finds of the model as it is now, without baselines, which do not change."""

    name: str  # agnews or hellaswag
    every: int
    items: Parts | list[Row]
    tokenizer: Tokenizer
    objective: str
    length: int

    @classmethod
    def of(cls, name: str, every: int, data: str | None, most: int, *model: Any) -> "BenchmarkCallback":
        """With its items at hand, so that what is wrong with them is said before anything is trained."""
        items = SuiteData(EvalOptions.model_validate({"suite": name, "data": data, "limit": most}), name)
        if name == "agnews":
            parts = items.parts()
            check(parts)
            return cls(name, every, parts, *model)
        if model[1] == "mlm":
            raise BertGPTError("BG222", f"{name} asks what comes next, and a masked model does not say that")
        return cls(name, every, items.rows(), *model)

    def __call__(self, trainer: Any) -> dict[str, Any] | None:
        """Every process asks its share of the items; what they found is put together, and judged by all alike."""
        kept = PretrainedModel(trainer.model.eval(), self.tokenizer, self.objective, length=self.length)
        if isinstance(self.items, tuple):
            ask, width = partial(embed, kept), kept.model.config.dim
            train, test = (gather_over_ranks(trainer, part.texts, ask, width) for part in self.items)
            learned, judged = (np.array(part.labels) for part in self.items)
            return {"accuracy": float((fit_and_predict(train, test, learned, full=False).predictions == judged).mean())}

        def right(rows: Sequence[Row]) -> NDArray[Any]:
            return np.array(multiple_choice(kept, rows, self.name).items["acc_norm"])[:, None]

        return {"accuracy": float(gather_over_ranks(trainer, self.items, right, 1).mean())}


def gather_over_ranks(
    trainer: Any, items: Sequence[Any], ask: Callable[[Any], NDArray[Any]], width: int
) -> NDArray[Any]:
    """A row for each item, (items, width): every process asks for every so-many-th."""
    group = trainer.dist
    found = torch.zeros((len(items), width), device=trainer.device)
    mine = items[group.rank :: group.world]
    if mine:
        found[group.rank :: group.world] = torch.as_tensor(ask(mine), dtype=found.dtype).to(found.device)
    added: NDArray[Any] = group.all_reduce(found).cpu().numpy()
    return added
