"""Sampling the next token from logits: repetition penalty, temperature, top-k and top-p, then one draw."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertgpt.utils.errors import BertGPTError

MIN_TEMPERATURE = 1e-6  # below it sampling is greedy: nothing else is ever drawn, and quotients are not finite


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters. Steps that a default turns off are not computed. Values out of range raise BertGPTError."""

    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # sample from the k most likely tokens; 0: from all
    top_p: float = 1.0  # sample from the most likely tokens with this total probability (Holtzman et al., 2020)
    repetition_penalty: float = 1.0  # makes tokens that occurred less likely (Keskar et al., 2019)

    def __post_init__(self) -> None:
        rules = {
            "temperature must be 0 or more": 0 <= self.temperature < math.inf,
            "top_k must be 0 or more": self.top_k >= 0,
            "top_p must be above 0 and at most 1": 0 < self.top_p <= 1,
            "repetition_penalty must be above 0": 0 < self.repetition_penalty < math.inf,
        }  # fmt: skip
        for message, holds in rules.items():
            if not holds:
                raise BertGPTError("BG204", message)

    def sample(self, logits: Tensor, seen: Tensor | None, draws: NDArray[np.float64]) -> Tensor:
        """Sample an id for each row of logits (B, V). `seen` (B, V): ids that occurred; `draws` (B,): in [0, 1).

        The sampled id is where the cumulative probability, in the order of ids, passes the draw. So logits that differ
        in their last digits, as those of other batch sizes do, give the same id.
        """
        logits, device = self.penalize(logits, seen), logits.device
        if self.temperature < MIN_TEMPERATURE:
            return logits.argmax(dim=1)
        if device.type == "mps" or (device.type == "cuda" and torch.are_deterministic_algorithms_enabled()):
            logits = logits.cpu()  # MPS has no fp64, and CUDA no deterministic cumsum
        cumulative = self.probabilities(logits).cumsum(dim=1)  # (B, V), in fp64
        targets = torch.from_numpy(draws).to(cumulative.device)[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, targets, right=True)[:, 0].clamp(max=logits.size(1) - 1).to(device)

    def penalize(self, logits: Tensor, seen: Tensor | None) -> Tensor:
        """Apply the repetition penalty to ids that occurred."""
        if self.repetition_penalty == 1 or seen is None:
            return logits
        penalized = torch.where(logits < 0, logits * self.repetition_penalty, logits / self.repetition_penalty)
        return torch.where(seen, penalized, logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (B, V) in fp64 after temperature, top-k and top-p; 0 for ids that these exclude."""
        if self.temperature != 1:
            logits = logits / self.temperature
        if 0 < self.top_k < logits.size(1):
            threshold = logits.topk(self.top_k, dim=1).values[:, -1:]
            logits = logits.masked_fill(logits < threshold, -torch.inf)
        probs = logits.double().softmax(dim=1)
        if self.top_p < 1:
            sorted_probs, order = probs.sort(dim=1, descending=True)
            before = sorted_probs.cumsum(dim=1) - sorted_probs  # total probability of the more likely ids
            excluded = torch.zeros_like(probs, dtype=torch.bool).scatter(1, order, before >= self.top_p)
            probs = probs.masked_fill(excluded, 0)
        return probs
