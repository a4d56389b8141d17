"""The twins of the evaluations: what is called right can be written, and what is called wrong cannot."""

from collections import Counter
from itertools import islice

import pytest

from bertgpt.corpora.tinyworld.tasks import SPLITS, TASKS, examples
from bertgpt.corpora.tinyworld.telling import MECHANISMS, Unreadable
from bertgpt.corpora.tinyworld.world import World


def writable(world: World, text: str) -> bool:
    try:
        world.read_beginning(text)
    except Unreadable:
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


def test_topics_are_balanced_and_the_place_is_not_told() -> None:
    found = take("topic", 800)
    assert min(Counter(e["label"] for e in found).values()) > 140
    assert not any(e["text"].startswith(("It was a", "There is")) for e in found)


def test_sentiment_shows_only_sentences_that_judge() -> None:
    found = take("sentiment", 400)
    assert set(Counter(e["label"] for e in found)) == {"good", "bad"}
    for example in found:
        assert "good" in example["label"] or "bad" in example["label"]
        assert not any(sentence.startswith(("Outside", "Even the")) for sentence in example["text"].split(". "))
    denied = [e for e in found if e["text"] == "Nobody was sad."]
    assert all(e["label"] == "good" for e in denied)


def test_unacceptable_sentences_cannot_stand_where_they_were() -> None:
    world = World(0)
    found = take("acceptability", 600)
    violations = Counter(e["violation"] for e in found)
    assert 250 < violations[None] < 350
    assert min(violations["agreement"], violations["word order"]) > 100
    for example in found:
        document = world.document(SPLITS["dev"] + example["document"]).text
        assert (example["text"] in document) == (example["label"] == "acceptable")


def test_of_every_pair_the_world_can_write_one() -> None:
    world = World(0)
    found = take("pairs", 300)
    for example in found:
        assert writable(world, example["good"])
        assert not writable(world, example["bad"])
        good, bad = example["good"].split(), example["bad"].split()
        assert sum(a != b for a, b in zip(good, bad, strict=True)) == 1
    assert set(Counter(e["mechanism"] for e in found)) == set(MECHANISMS) - {"rest"}


def test_of_four_endings_one_can_follow() -> None:
    world = World(0)
    found = take("endings", 150)
    for example in found:
        assert len(set(example["endings"])) == 4
        can_follow = [writable(world, f"{example['context']} {ending}") for ending in example["endings"]]
        assert can_follow == [i == example["label"] for i in range(4)]
    assert min(Counter(e["label"] for e in found).values()) > 20


def test_a_cloze_word_must_follow_and_was_said_sentences_before() -> None:
    world = World(0)
    for example in take("cloze", 200):
        word = world.read_beginning(f"{example['context']} {example['target']}")[-1]
        assert word.text == example["target"]
        assert word.logp > -0.11
        *before, _ = example["context"].split(". ")
        assert before
        assert any(example["target"] in sentence for sentence in before)
