"""What is drawn, and how often."""

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
WAYS = [
    SamplingParams(),
    SamplingParams(temperature=0.6),
    SamplingParams(temperature=1.7, top_k=5),
    SamplingParams(top_p=0.7),
    SamplingParams(temperature=1.3, top_k=12, top_p=0.85, repetition_penalty=1.4),
    SamplingParams(repetition_penalty=0.5),
    SamplingParams(top_p=0.01),
    SamplingParams(top_k=VOCAB + 7),
]


def theirs(way: SamplingParams, logits: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """The same odds by `transformers`."""
    steps = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(way.repetition_penalty)])
    steps.append(TemperatureLogitsWarper(way.temperature))
    if way.top_k:
        steps.append(TopKLogitsWarper(way.top_k))
    steps.append(TopPLogitsWarper(way.top_p))
    odds: torch.Tensor = steps(torch.tensor([ids]), logits[None].clone()).softmax(dim=1)[0]
    return odds


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_draws_are_distributed_as_those_of_transformers(way: SamplingParams) -> None:
    """Chi-square over a small vocabulary: a false alarm once in ten thousand, and always the same draws."""
    logits, ids = torch.randn(VOCAB, generator=torch.Generator().manual_seed(3)) * 2, [3, 5, 5, 11]
    seen = torch.zeros(VOCAB, dtype=torch.bool)
    seen[ids] = True
    draws = uniform(7, np.arange(DRAWS, dtype=np.uint64), 1)[:, 0]
    many = logits.expand(DRAWS, -1)
    found = torch.bincount(way.sample(many, seen.expand(DRAWS, -1), draws), minlength=VOCAB).double()
    wanted = theirs(way, logits, ids).double() * DRAWS
    assert not found[wanted == 0].any()
    often = wanted > 5
    chi = float(((found - wanted)[often] ** 2 / wanted[often]).sum())
    freedom = int(often.sum()) - 1
    assert chi <= freedom + 4 * math.sqrt(2 * freedom) + 8


def test_temperature_0_takes_the_likeliest() -> None:
    logits = torch.randn((50, VOCAB), generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        SamplingParams(0, top_k=3, top_p=0.5).sample(logits, None, np.full(50, 0.99)), logits.argmax(dim=1)
    )


def test_the_ends_of_the_unit_interval_choose_what_can_be_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]])
    assert SamplingParams().sample(logits, None, np.zeros(1)).item() == 1
    assert SamplingParams().sample(logits, None, np.array([np.nextafter(1.0, 0.0)])).item() == 2
