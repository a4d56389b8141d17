"""tinyworld tasks: what is labeled correct parses, what is labeled wrong does not."""

import re
from collections import Counter
from itertools import islice

import pytest

from bertgpt.tinyworld import lexicon
from bertgpt.tinyworld.grammar import CATEGORIES, NotInLanguage
from bertgpt.tinyworld.tasks import FUNCTION_WORDS, SENTENCE_END, SPLITS, TASKS, examples
from bertgpt.tinyworld.world import World


def parses(world: World, text: str) -> bool:
    try:
        world.parse_prefix(text)
    except NotInLanguage:
        return False
    return True


def take(task: str, count: int, split: str = "dev", start: int = 0, seed: int = 0) -> list[dict]:
    return list(islice(examples(World(seed), task, split, start), count))


@pytest.mark.parametrize("task", TASKS)
def test_examples_depend_on_seed_split_and_document(task: str) -> None:
    first = take(task, 30)
    assert first == take(task, 30)
    later = [example for example in first if example["document"] >= 10]
    assert take(task, len(later), start=10) == later
    assert first != take(task, 30, seed=1)
    assert first != take(task, 30, split="train")


def test_splits_and_corpora_are_disjoint() -> None:
    assert 0 < SPLITS["train"] < SPLITS["dev"] < 2**63
    assert SPLITS["dev"] - SPLITS["train"] > 10**9 < SPLITS["train"]


def test_topic_labels_and_missing_place() -> None:
    world = World(0)
    rows = take("topic", 800)
    places = [place for domain in lexicon.DOMAINS for place in domain.places]
    for example in rows:
        document = world.document(SPLITS["dev"] + example["document"])
        assert example["label"] == document.topic
        assert document.text.endswith(example["text"])
        assert not any(place + " of" in example["text"] for place in places)
    assert min(Counter(e["label"] for e in rows).values()) > 140


def test_sentiment_labels_follow_from_words_and_negation() -> None:
    """Labeled here by word lists, sentence by sentence, without the grammar."""
    rows = take("sentiment", 600)
    good, bad = set(lexicon.FINE + lexicon.GLAD), set(lexicon.POOR + lexicon.SORRY)
    negations = 0
    for example in rows:
        for sentence in SENTENCE_END.split(example["text"]):
            words = re.findall(r"[a-z]+", sentence.replace("market day", "").replace("a little", ""))
            sentiment_words = [word for word in words if word in good | bad]
            assert len(sentiment_words) >= 1, sentence
            negated = sentence.startswith("Nobody") or " not a" in sentence
            negations += negated
            positive = all((word in good) is not negated for word in sentiment_words)
            assert positive is (example["label"] == "good"), sentence
    assert negations > 100
    assert min(Counter(e["label"] for e in rows).values()) > 200


def test_unacceptable_sentences_are_not_in_the_document() -> None:
    world = World(0)
    rows = take("acceptability", 600)
    violations = Counter(e["violation"] for e in rows)
    assert 250 < violations[None] < 350
    assert min(violations["agreement"], violations["word order"]) > 100
    for example in rows:
        document = world.document(SPLITS["dev"] + example["document"]).text
        assert (example["text"] in document) == (example["label"] == "acceptable")
        if example["violation"] == "word order":
            swapped = [i for i, word in enumerate(example["text"].split()) if word.strip(",.") in FUNCTION_WORDS]
            assert swapped, example


def test_one_text_of_every_minimal_pair_parses() -> None:
    world = World(0)
    rows = take("pairs", 300)
    for example in rows:
        assert parses(world, example["good"])
        assert not parses(world, example["bad"])
        good, bad = example["good"].split(), example["bad"].split()
        assert sum(a != b for a, b in zip(good, bad, strict=True)) == 1
        assert not re.search(r"Them |(him|them) (sister|brother|aunt|uncle|father|mother)", example["bad"])
    assert set(Counter(e["category"] for e in rows)) == set(CATEGORIES) - {"rest"}


def test_one_of_four_endings_parses() -> None:
    world = World(0)
    rows = take("endings", 150)
    for example in rows:
        assert len(set(example["endings"])) == 4
        possible = [parses(world, f"{example['context']} {ending}") for ending in example["endings"]]
        assert possible == [i == example["label"] for i in range(4)]
    assert min(Counter(e["label"] for e in rows).values()) > 20


def test_similarity_does_not_reveal_the_correct_ending() -> None:
    hits = 0.0
    for example in take("endings", 200):
        words = [ending.split() for ending in example["endings"]]
        distances = [sum(a != b for other in words for a, b in zip(own, other, strict=True)) for own in words]
        nearest = [i for i in range(4) if distances[i] == min(distances)]
        hits += (example["label"] in nearest) / len(nearest)
    assert 0.15 < hits / 200 < 0.35


def test_cloze_target_is_certain_and_occurs_in_an_earlier_sentence() -> None:
    world = World(0)
    for example in take("cloze", 200):
        word = world.parse_prefix(f"{example['context']} {example['target']}")[-1]
        assert word.text == example["target"]
        assert word.logp > -0.11
        *before, _ = example["context"].split(". ")
        assert before
        assert any(example["target"] in sentence for sentence in before)
