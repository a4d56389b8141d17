"""The Kneser-Ney trigram: computed by hand on a few words, normalized, and limited to local context."""

import math

import numpy as np
import pytest

from bertgpt.tinyworld.grammar import END, tokens_of
from bertgpt.tinyworld.trigram import Trigram
from bertgpt.tinyworld.world import World


def test_trigram_probability_by_hand() -> None:
    """p(c | a b) in "a b c", "a b d", "a b c", with the counts written out."""
    model = Trigram([["a", "b", "c"], ["a", "b", "d"], ["a", "b", "c"]])
    third, second, first = (order.discount for order in reversed(model.orders))
    # Trigram counts: (., ., a) 3, (., a, b) 3, (a, b, c) 2, (a, b, d) 1. Discount: one occurs once, one twice.
    assert third == pytest.approx(1 / 3)
    # Every bigram has one left context, every word one left neighbor: discounts 4 / (4 + 0) for both.
    assert (second, first) == (pytest.approx(1.0), pytest.approx(1.0))
    uniform = 1 / 5  # a, b, c, d and the unknown word
    unigram = (1 - 1) / 4 + 1 * 4 / 4 * uniform
    bigram = (1 - 1) / 2 + 1 * 2 / 2 * unigram
    trigram = (2 - 1 / 3) / 3 + (1 / 3) * 2 / 3 * bigram
    assert model.logps(["a", "b", "c"])[2] == pytest.approx(math.log(trigram))


def test_trigram_probabilities_sum_to_1() -> None:
    world = World(0)
    documents = [(*tokens_of(d.text), END) for d in world.documents(0, 300)]
    model = Trigram(documents)
    words = [*list(model.vocabulary)[1:], "never seen"]
    for context in ([], ["It"], ["It", "was"], ["was", "there"], ["zebra", "was"], ["zebra", "zebra"]):
        total = sum(np.exp(model.logps([*context, word])[-1]) for word in words)
        assert total == pytest.approx(1, abs=1e-9)


def test_trigram_is_above_the_true_entropy() -> None:
    world = World(0)
    model = Trigram((*tokens_of(d.text), END) for d in world.documents(10_000, 20_000))
    entropy = loss = 0.0
    for document in world.documents(0, 300):
        words = world.parse(document.text).words
        entropy -= document.logp
        loss -= model.logps([word.text for word in words]).sum()
    assert 1.25 < loss / entropy < 1.8
