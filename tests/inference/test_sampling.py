"""Sampling: the distribution of sampled ids, and greedy decoding."""

import math

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from bertgpt.inference.sampling import SamplingParams
from bertgpt.utils.rng import uniform

VOCAB, DRAWS = 24, 40_000
PARAMS = [
    SamplingParams(),
    SamplingParams(temperature=0.6),
    SamplingParams(temperature=1.7, top_k=5),
    SamplingParams(top_p=0.7),
    SamplingParams(temperature=1.3, top_k=12, top_p=0.85, repetition_penalty=1.4),
    SamplingParams(repetition_penalty=0.5),
    SamplingParams(top_p=0.01),
    SamplingParams(top_k=VOCAB + 7),
]


def hf_probabilities(params: SamplingParams, logits: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """The probabilities that the logits processors of transformers give."""
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(params.repetition_penalty)])
    processors.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        processors.append(TopKLogitsWarper(params.top_k))
    processors.append(TopPLogitsWarper(params.top_p))
    probs: torch.Tensor = processors(torch.tensor([ids]), logits[None].clone()).softmax(dim=1)[0]
    return probs


@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_sampled_ids_follow_the_distribution_of_transformers(params: SamplingParams) -> None:
    """Chi-square test over a small vocabulary, with a false-alarm rate of one in ten thousand; the draws are fixed."""
    logits, ids = torch.randn(VOCAB, generator=torch.Generator().manual_seed(3)) * 2, [3, 5, 5, 11]
    seen = torch.zeros(VOCAB, dtype=torch.bool)
    seen[ids] = True
    draws = uniform(7, np.arange(DRAWS, dtype=np.uint64), 1)[:, 0]
    ids_drawn = params.sample(logits.expand(DRAWS, -1), seen.expand(DRAWS, -1), draws)
    counts = torch.bincount(ids_drawn, minlength=VOCAB).double()
    wanted = hf_probabilities(params, logits, ids).double() * DRAWS
    assert not counts[wanted == 0].any()
    frequent = wanted > 5
    chi_square = float(((counts - wanted)[frequent] ** 2 / wanted[frequent]).sum())
    degrees_of_freedom = int(frequent.sum()) - 1
    assert chi_square <= degrees_of_freedom + 4 * math.sqrt(2 * degrees_of_freedom) + 8


def test_temperature_0_is_greedy() -> None:
    logits = torch.randn((50, VOCAB), generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        SamplingParams(0, top_k=3, top_p=0.5).sample(logits, None, np.full(50, 0.99)), logits.argmax(dim=1)
    )


def test_draws_at_the_ends_of_the_unit_interval_are_valid() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]])
    assert SamplingParams().sample(logits, None, np.zeros(1)).item() == 1
    assert SamplingParams().sample(logits, None, np.array([np.nextafter(1.0, 0.0)])).item() == 2
