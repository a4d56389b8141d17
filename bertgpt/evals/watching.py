"""A suite that is asked again and again while a model is trained."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bertgpt.config import EvalOptions
from bertgpt.errors import BertGPTError
from bertgpt.evals.choices import endings, needs_text_that_goes_on
from bertgpt.evals.probe import Labelled, classified
from bertgpt.evals.suites import Items
from bertgpt.evals.tables import Row
from bertgpt.features import embedded
from bertgpt.saved import Saved
from bertgpt.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Watched:
    """A hook: what a suite finds of the model as it is now, without baselines, which do not change."""

    name: str  # agnews or hellaswag
    every: int
    items: Labelled | list[Row]
    tokenizer: Tokenizer
    objective: str
    length: int

    @classmethod
    def of(cls, name: str, every: int, data: str | None, most: int, *model: Any) -> "Watched":
        """With its items at hand, so that what is wrong with them is said before anything is trained."""
        items = Items(EvalOptions.model_validate({"suite": name, "data": data, "limit": most}), name)
        if name == "agnews":
            labelled = items.labelled()
            labelled.check()
            return cls(name, every, labelled, *model)
        if model[1] == "masked":
            raise BertGPTError("BG222", f"{name} asks what comes next, and a masked model does not say that")
        return cls(name, every, items.rows(), *model)

    def __call__(self, trainer: Any) -> dict[str, Any] | None:
        """The first process asks, the others wait."""
        if not trainer.group.leads:
            return None
        kept = Saved(trainer.model.eval(), self.tokenizer, self.objective, length=self.length)
        if isinstance(self.items, Labelled):
            train, test = (embedded(kept, texts) for texts in (self.items.train_texts, self.items.test_texts))
            said = classified(train, test, np.array(self.items.train_labels), full=False).said
            return {"accuracy": float((said == np.array(self.items.test_labels)).mean())}
        needs_text_that_goes_on(kept, self.name)
        found = endings(kept, self.items, self.name)
        return {"accuracy": found.scores["acc_norm"].value}
