"""The twins of the evaluations: what is called right can be written, and what is called wrong cannot."""

import re
from collections import Counter
from itertools import islice

import pytest

from bertgpt.tinyworld import lexicon
from bertgpt.tinyworld.grammar import CATEGORIES, NotInLanguage
from bertgpt.tinyworld.tasks import FUNCTION_WORDS, SENTENCE_END, SPLITS, TASKS, examples
from bertgpt.tinyworld.world import World


def writable(world: World, text: str) -> bool:
    try:
        world.parse_prefix(text)
    except NotInLanguage:
        return False
    return True


def take(task: str, count: int, split: str = "dev", start: int = 0, seed: int = 0) -> list[dict]:
    return list(islice(examples(World(seed), task, split, start), count))


@pytest.mark.parametrize("task", TASKS)
def test_examples_are_functions_of_seed_split_and_document(task: str) -> None:
    first = take(task, 30)
    assert first == take(task, 30)
    later = [example for example in first if example["document"] >= 10]
    assert take(task, len(later), start=10) == later
    assert first != take(task, 30, seed=1)
    assert first != take(task, 30, split="train")


def test_splits_and_corpora_never_meet() -> None:
    assert 0 < SPLITS["train"] < SPLITS["dev"] < 2**63
    assert SPLITS["dev"] - SPLITS["train"] > 10**9 < SPLITS["train"]


def test_topics_are_those_of_the_documents_and_the_place_is_not_told() -> None:
    world = World(0)
    found = take("topic", 800)
    places = [place for domain in lexicon.DOMAINS for place in domain.places]
    for example in found:
        document = world.document(SPLITS["dev"] + example["document"])
        assert example["label"] == document.topic
        assert document.text.endswith(example["text"])
        assert not any(place + " of" in example["text"] for place in places)
    assert min(Counter(e["label"] for e in found).values()) > 140


def test_sentiment_follows_from_the_words_and_their_denials() -> None:
    """Judged here by word lists, sentence by sentence, without the grammar."""
    found = take("sentiment", 600)
    good, bad = set(lexicon.FINE + lexicon.GLAD), set(lexicon.POOR + lexicon.SORRY)
    denials = 0
    for example in found:
        for sentence in SENTENCE_END.split(example["text"]):
            words = re.findall(r"[a-z]+", sentence.replace("market day", "").replace("a little", ""))
            judging = [word for word in words if word in good | bad]
            assert len(judging) >= 1, sentence
            denied = sentence.startswith("Nobody") or " not a" in sentence
            denials += denied
            assert all((word in good) is not denied for word in judging) is (example["label"] == "good"), sentence
    assert denials > 100
    assert min(Counter(e["label"] for e in found).values()) > 200


def test_unacceptable_sentences_cannot_stand_where_they_were() -> None:
    world = World(0)
    found = take("acceptability", 600)
    violations = Counter(e["violation"] for e in found)
    assert 250 < violations[None] < 350
    assert min(violations["agreement"], violations["word order"]) > 100
    for example in found:
        document = world.document(SPLITS["dev"] + example["document"]).text
        assert (example["text"] in document) == (example["label"] == "acceptable")
        if example["violation"] == "word order":
            swapped = [i for i, word in enumerate(example["text"].split()) if word.strip(",.") in FUNCTION_WORDS]
            assert swapped, example


def test_of_every_pair_the_world_can_write_one() -> None:
    world = World(0)
    found = take("pairs", 300)
    for example in found:
        assert writable(world, example["good"])
        assert not writable(world, example["bad"])
        good, bad = example["good"].split(), example["bad"].split()
        assert sum(a != b for a, b in zip(good, bad, strict=True)) == 1
        assert not re.search(r"Them |(him|them) (sister|brother|aunt|uncle|father|mother)", example["bad"])
    assert set(Counter(e["category"] for e in found)) == set(CATEGORIES) - {"rest"}


def test_of_four_endings_one_can_follow() -> None:
    world = World(0)
    found = take("endings", 150)
    for example in found:
        assert len(set(example["endings"])) == 4
        can_follow = [writable(world, f"{example['context']} {ending}") for ending in example["endings"]]
        assert can_follow == [i == example["label"] for i in range(4)]
    assert min(Counter(e["label"] for e in found).values()) > 20


def test_the_right_ending_is_not_the_one_most_like_the_others() -> None:
    hits = 0.0
    for example in take("endings", 200):
        words = [ending.split() for ending in example["endings"]]
        distances = [sum(a != b for other in words for a, b in zip(own, other, strict=True)) for own in words]
        nearest = [i for i in range(4) if distances[i] == min(distances)]
        hits += (example["label"] in nearest) / len(nearest)
    assert 0.15 < hits / 200 < 0.35


def test_a_cloze_word_must_follow_and_was_said_sentences_before() -> None:
    world = World(0)
    for example in take("cloze", 200):
        word = world.parse_prefix(f"{example['context']} {example['target']}")[-1]
        assert word.text == example["target"]
        assert word.logp > -0.11
        *before, _ = example["context"].split(". ")
        assert before
        assert any(example["target"] in sentence for sentence in before)
