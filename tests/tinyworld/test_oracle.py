"""Bayes-optimal prediction against brute force: over all documents of a small world, and over the whole vocabulary."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest

from bertgpt.tinyworld.grammar import TOKEN, NotInLanguage, tokens_of
from bertgpt.tinyworld.oracle import Oracle
from bertgpt.tinyworld.world import World

PREFIX = "There is fog on the north pier of Penwick. Agnes and Tom are there early."


@pytest.mark.slow
def test_posterior_against_all_documents_of_a_small_world(
    small_world: Callable[[int], World], texts: Callable[..., Iterator[str]]
) -> None:
    """The posterior is the share of a document among those that differ from it only in this word."""
    world = small_world(3)
    documents = list(texts(world, PREFIX))
    masked: defaultdict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for text in documents:
        tokens, p = tokens_of(text), math.exp(world.parse(text).logp)
        for i in range(len(tokens_of(PREFIX)), len(tokens)):
            masked[(*tokens[:i], "", *tokens[i + 1 :])][tokens[i]] = p
    for text in documents[::29]:
        tokens = tokens_of(text)
        for i in range(len(tokens_of(PREFIX)), len(tokens)):
            joint = masked[(*tokens[:i], "", *tokens[i + 1 :])]
            posterior = Oracle(world, text).posterior(i)
            assert posterior.keys() == joint.keys()
            for word, p in joint.items():
                assert abs(posterior[word] - p / math.fsum(joint.values())) < 1e-9


def test_posterior_against_the_whole_vocabulary(world: World) -> None:
    vocabulary = sorted({word for d in world.documents(0, 2000) for word in tokens_of(d.text)})
    for index, position in ((1, 3), (1, 40), (2, 15), (8, 6)):
        document = world.document(index)
        spans = [match.span() for match in TOKEN.finditer(document.text)]
        start, end = spans[position]
        logps = {}
        for word in vocabulary:
            try:
                logps[word] = world.parse(document.text[:start] + word + document.text[end:]).logp
            except NotInLanguage:
                continue
        total = math.fsum(map(math.exp, logps.values()))
        posterior = Oracle(world, document.text).posterior(position)
        assert posterior.keys() == logps.keys()
        assert posterior == pytest.approx({word: math.exp(logp) / total for word, logp in logps.items()}, abs=1e-9)


def test_posterior_sums_to_1_and_includes_the_true_word(world: World) -> None:
    for document in world.documents(20, 26):
        for position, word in enumerate(tokens_of(document.text)):
            posterior = Oracle(world, document.text).posterior(position)
            assert posterior[word] > 0
            assert math.fsum(posterior.values()) == pytest.approx(1)
