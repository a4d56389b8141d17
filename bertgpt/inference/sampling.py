"""The next id from logits: all of them sorted out, then one drawn."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertgpt.utils.errors import BertGPTError

MIN_TEMPERATURE = 1e-6  # below it nothing but the likeliest is ever drawn, and quotients are not finite


@dataclass(frozen=True)
class SamplingParams:
    """How. What is set off by its default is not computed."""

    temperature: float = 1.0  # 0: always the likeliest
    top_k: int = 0  # only the k likeliest; 0: all
    top_p: float = 1.0  # only the likeliest that together have this probability (Holtzman et al., 2020)
    repetition_penalty: float = 1.0  # of what stands in the text already (Keskar et al., 2019)

    def __post_init__(self) -> None:
        ranges = {
            "temperature is 0 or more": 0 <= self.temperature < math.inf, "top_k is 0 or more": self.top_k >= 0,
            "top_p is above 0 and at most 1": 0 < self.top_p <= 1,
            "repetition_penalty is above 0": 0 < self.repetition_penalty < math.inf,
        }  # fmt: skip
        for said, holds in ranges.items():
            if not holds:
                raise BertGPTError("BG204", said)

    def sample(self, logits: Tensor, seen: Tensor | None, draws: NDArray[np.float64]) -> Tensor:
        """An id for each row of logits (B, V); `seen` (B, V) says what stands in its text, `draws` (B,) are in [0, 1).

        The id is where the sum of probabilities, in the order of ids, passes the draw: so that logits that differ in
        their last digits, as those of batches of other sizes do, choose the same.
        """
        logits = self.penalize(logits, seen)
        if self.temperature < MIN_TEMPERATURE:
            return logits.argmax(dim=1)
        reached = self.probabilities(logits).cumsum(dim=1)  # (B, V), in fp64
        places = torch.from_numpy(draws).to(reached.device)[:, None] * reached[:, -1:]
        return torch.searchsorted(reached, places, right=True)[:, 0].clamp(max=logits.size(1) - 1)

    def penalize(self, logits: Tensor, seen: Tensor | None) -> Tensor:
        """Logits of ids that were seen, made smaller."""
        if self.repetition_penalty == 1 or seen is None:
            return logits
        smaller = torch.where(logits < 0, logits * self.repetition_penalty, logits / self.repetition_penalty)
        return torch.where(seen, smaller, logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of each id, (B, V) in fp64; 0 for those that are left out."""
        if self.temperature != 1:
            logits = logits / self.temperature
        if 0 < self.top_k < logits.size(1):
            least = logits.topk(self.top_k, dim=1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        odds = logits.double().softmax(dim=1)
        if self.top_p < 1:
            falling, order = odds.sort(dim=1, descending=True)
            before = falling.cumsum(dim=1) - falling  # what all that are likelier have together
            odds = odds.masked_fill(torch.zeros_like(odds, dtype=torch.bool).scatter(1, order, before >= self.top_p), 0)
        return odds
