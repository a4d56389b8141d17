"""Documents of tinyworld: reproducible bytes, exact probabilities, and a parser that recovers every document."""

import hashlib
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from bertgpt.tinyworld.grammar import CATEGORIES, TOKEN, NotInLanguage, tokens_of
from bertgpt.tinyworld.tasks import SENTENCE_END
from bertgpt.tinyworld.world import World

# SHA-256 of the first 1000 documents of seed 0. Changing it changes the corpus.
GOLDEN = "b16beed2c526655d07249e2acb2f12c1698ebf7d131cf9ea17fcc52049d31d03"

PREFIXES = [
    (3, "It was a cold morning on the north pier of Penwick. Agnes, the sailor, was there early."),
    (3, "There is fog on the north pier of Penwick. Agnes and Tom are there early."),
    (3, "There was fog on the north pier of Penwick. The twins were there early with their sister, Clara."),
    (4, "There is fog on the north pier of Penwick. Agnes is there early. She picks up a small rope."),
    (
        4,
        "It was a cold morning on the north pier of Penwick. Agnes was there early with her sister, Clara. Clara "
        "picked up a rope and was happy.",
    ),
]


def digest(seed: int, count: int) -> str:
    return hashlib.sha256("\n".join(d.text for d in World(seed).documents(0, count)).encode()).hexdigest()


def test_golden_documents() -> None:
    assert digest(0, 1000) == GOLDEN


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_documents_are_the_same_in_another_process(hash_seed: str) -> None:
    code = "from bertgpt.tinyworld import World; [print(d.text) for d in World(7).documents(300, 340)]"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": hash_seed}
    )
    assert done.stdout.splitlines() == [d.text for d in World(7).documents(300, 340)]


def test_documents_do_not_depend_on_the_start_index(world: World) -> None:
    together = [d.text for d in world.documents(0, 700)]
    assert world.document(600).text == together[600]
    assert [d.text for d in world.documents(255, 260)] == together[255:260]
    assert [d.text for d in islice(world.documents(690), 5)] == together[690:695]
    assert world.document(1 << 41).text != world.document(0).text


def test_seeds_give_different_documents() -> None:
    assert not {d.text for d in World(1).documents(0, 200)} & {d.text for d in World(2).documents(0, 200)}


@pytest.mark.slow
def test_every_document_parses(world: World) -> None:
    """10 000 documents: the parser recovers the choices, and from them the same text, labels and probability."""
    for document in world.documents(0, 10_000):
        reading = world.parse(document.text)  # raises unless the text is regenerated exactly
        assert abs(reading.logp - document.logp) < 1e-9
        assert (reading.topic, reading.genre, reading.mood) == (document.topic, document.genre, document.mood)


def test_document_statistics(world: World) -> None:
    documents = list(world.documents(0, 4000))
    lengths = Counter(len(SENTENCE_END.split(d.text)) for d in documents if d.genre == "story")
    assert (min(lengths), max(lengths)) == (3, 15)
    assert all(3 <= len(SENTENCE_END.split(d.text)) <= 5 for d in documents if d.genre == "notice")
    topics = Counter(d.topic for d in documents)
    assert len(topics) == 4
    assert min(topics.values()) > 850
    moods = Counter(d.mood for d in documents)
    assert abs(moods["good"] - moods["bad"]) < 200
    words = {word for d in documents for word in tokens_of(d.text)}
    assert 1300 < len(words) < 1700


def test_probabilities_of_all_documents_of_a_small_world_sum_to_1(
    small_world: Callable[[int], World], texts: Callable[..., Iterator[str]]
) -> None:
    world = small_world(2)  # every notice, and every story up to its second sentence
    documents = list(texts(world))
    assert len(documents) == len(set(documents)) > 2000
    assert abs(math.fsum(math.exp(world.parse(text).logp) for text in documents) - 1) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(("sentences", "prefix"), PREFIXES)
def test_probabilities_of_all_continuations_sum_to_1(
    small_world: Callable[[int], World], texts: Callable[..., Iterator[str]], sentences: int, prefix: str
) -> None:
    world = small_world(sentences)
    prefix_logp = sum(word.logp for word in world.parse_prefix(prefix))
    documents = list(texts(world, prefix))
    assert len(documents) == len(set(documents)) > 500
    assert abs(math.fsum(math.exp(world.parse(text).logp - prefix_logp) for text in documents) - 1) < 1e-9


@pytest.mark.slow
def test_word_probabilities_are_conditional_probabilities(
    small_world: Callable[[int], World], texts: Callable[..., Iterator[str]]
) -> None:
    """The mass of all documents with the prefix up to the word, over the mass of those with the prefix before it."""
    world = small_world(3)
    documents = [tokens_of(text) for text in texts(world, PREFIXES[0][1])]
    logps = [[word.logp for word in world.parse(text).words] for text in texts(world, PREFIXES[0][1])]
    masses: Counter[tuple[str, ...]] = Counter()
    for tokens, words in zip(documents, logps, strict=True):
        for n in range(len(tokens) + 1):
            masses[tokens[:n]] += math.exp(sum(words))
    for tokens, words in zip(documents[::7], logps[::7], strict=True):
        for n in range(len(tokens_of(PREFIXES[0][1])), len(tokens)):
            assert abs(words[n] - math.log(masses[tokens[: n + 1]] / masses[tokens[:n]])) < 1e-9


def test_prefix_may_end_after_any_word(world: World) -> None:
    for document in world.documents(50, 90):
        full = world.parse(document.text).words
        for n, match in enumerate(TOKEN.finditer(document.text), start=1):
            words = world.parse_prefix(document.text[: match.end()])
            assert [w.text for w in words] == [w.text for w in full[:n]]
            assert [w.logp for w in words] == pytest.approx([w.logp for w in full[:n]], abs=1e-9)
    with pytest.raises(NotInLanguage):
        world.parse_prefix("It  was  a")
    with pytest.raises(NotInLanguage):
        world.parse_prefix("It was Tom")


HAND_TAGGED = """
It was/agreement a cold morning on the north pier of Penwick . Agnes/names , the sailor , was/agreement there early with
her/pronouns brother , Tom/names . She/pronouns picked up a small rope and handed the rope/possessions to him/pronouns .
Outside , the boats near the gull were/agreement wet . Tom/names looked at the rope/possessions because it/pronouns
was/agreement heavy . Even the rope/possessions was/agreement wet . Everyone was/agreement happy .
"""


def test_categories_of_a_document_tagged_by_hand(world: World) -> None:
    tagged = [pair.partition("/") for pair in HAND_TAGGED.split()]
    text = re.sub(r" (?=[.,])", "", " ".join(word for word, _, _ in tagged))
    words = world.parse(text).words[:-1]
    assert [(w.text, w.category) for w in words] == [(word, tag or "rest") for word, _, tag in tagged]


@pytest.mark.parametrize(
    ("change", "position"),
    [
        (lambda text: text.replace(" was ", " were ", 1), 1),
        (lambda text: text.replace("a ", "an ", 1), None),
        (lambda text: text + " The end.", None),
        (lambda text: text[: text.rindex(".")], None),
        (lambda text: text.replace(" ", "  ", 1), None),
        (lambda text: "", 0),
    ],
)
def test_text_outside_the_language_is_rejected(change: Callable[[str], str], position: int | None) -> None:
    text = next(d.text for d in World(3).documents() if d.text.startswith("It was a"))
    with pytest.raises(NotInLanguage) as raised:
        World(3).parse(change(text))
    if position is not None:
        assert raised.value.position == position


def test_natural_text_is_rejected(world: World, data: Path) -> None:
    for line in (data / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8").splitlines()[:500]:
        with pytest.raises(NotInLanguage):
            world.parse(line)


def test_possessions_occur_earlier_in_the_document(world: World) -> None:
    """Nobody puts down a thing that was not introduced."""
    for document in world.documents(0, 300):
        seen: set[str] = set()
        for word in world.parse(document.text).words:
            if word.category == "possessions":
                assert word.text in seen, document.text
            seen.add(word.text)


def test_every_category_occurs_and_has_entropy(world: World) -> None:
    counts, nats = Counter[str](), Counter[str]()
    for document in world.documents(0, 500):
        for word in world.parse(document.text).words:
            counts[word.category] += 1
            nats[word.category] -= word.logp
    assert set(counts) == set(CATEGORIES)
    assert all(nats[category] > 0 for category in CATEGORIES)
