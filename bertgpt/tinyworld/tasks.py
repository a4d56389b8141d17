"""The offline twins of the evaluations: labelled examples from documents that no training corpus contains.

    topic          as AG News    a document without its first sentence, and its domain
    sentiment      as SST-2      the sentences that judge, and whether they praise
    acceptability  as CoLA       a sentence as it was written, or with its agreement or word order broken
    pairs          as BLiMP      two texts that differ in one word, of which the world can write only one
    endings        as HellaSwag  the beginning of a document and four next sentences, of which one can follow
    cloze          as LAMBADA    a text, and the word that must follow because of what was said sentences ago

The answers are known, not judged: a wrong text is one that no document of the world begins with.
"""

import math
import re
from collections.abc import Iterator
from itertools import count
from typing import Any

from bertgpt.tinyworld.grammar import AGREEMENT, NAMES, POSSESSIONS, PRONOUNS, TOKEN, NotInLanguage, Table
from bertgpt.tinyworld.world import Document, World
from bertgpt.utils.rng import stream

Example = dict[str, Any]

SPLITS = {"train": 1 << 40, "dev": 1 << 41}  # the first document of each; a corpus begins at 0 and never gets there
SENTENCE_END = re.compile(r"(?<=\.) ")  # a speech ends in , or ! before its quotation mark
MIN_CLOZE_LOGP = math.log(0.9)  # a cloze word is at least this likely


def symmetric(pairs: dict[str, str]) -> dict[str, str]:
    """The pairs read in either direction, in small letters and with a capital."""
    there = pairs | {b: a for a, b in pairs.items()}
    return there | {a.capitalize(): b.capitalize() for a, b in there.items()}


NUMBER = symmetric({"was": "were", "is": "are", "has": "have", "seems": "seem", "belongs": "belong"})
TENSE = symmetric({"was": "is", "had": "has", "seemed": "seems"}) | {"were": "are", "are": "were"}
SUBJECT, OBJECT = symmetric({"she": "he", "it": "they"}), symmetric({"her": "him", "it": "them"})
POSSESSIVE = {"her": "his", "his": "her", "their": "her"}
# "the" before a noun and "of" before a name cannot change places with them, whatever the sentence
FUNCTION_WORDS = frozenset({"the", "a", "an", "some", "of", "to", "at", "with", "in", "on"})


class ParsedDocument:
    """A document taken apart to make an example of it, with draws of its own."""

    def __init__(self, world: World, document: Document) -> None:
        self.world, self.document, self.text = world, document, document.text
        self.reading = world.parse(self.text)
        self.words = self.reading.words[:-1]
        self.spans = [match.span() for match in TOKEN.finditer(self.text)]  # of each word
        ends = [match.start() for match in SENTENCE_END.finditer(self.text)] + [len(self.text)]
        self.sentences = list(zip([0, *(end + 1 for end in ends)], ends, strict=False))  # spans too
        self.draw = stream(world.seed, document.index, first=1 << 20).__next__  # no document draws so many

    def choice(self, options: list[Any]) -> Any:
        """One of the options, all equally likely; None where there are none."""
        return options[int(self.draw() * len(options))] if options else None

    def shuffled(self, options: list[Any]) -> list[Any]:
        """The options in random order."""
        return [options[i] for _, i in sorted((self.draw(), i) for i in range(len(options)))]

    def sentence_of(self, position: int) -> int:
        """The number of the sentence that a word stands in."""
        return sum(end <= self.spans[position][0] for _, end in self.sentences)

    def positions(self, sentence: int) -> list[int]:
        """The words of a sentence."""
        return [i for i in range(len(self.words)) if self.sentence_of(i) == sentence]

    def replace_word(self, position: int, word: str) -> str:
        """The text from its beginning to the end of the sentence of a word, with another word in its place."""
        (start, end), (_, stop) = self.spans[position], self.sentences[self.sentence_of(position)]
        return self.text[:start] + word + self.text[end:stop]

    def is_valid_prefix(self, text: str) -> bool:
        """Whether some document begins with this text."""
        try:
            self.world.parse_prefix(text)
        except NotInLanguage:
            return False
        return True

    def distractors(self, position: int) -> list[str]:
        """Words of the same kind with which the text could not have been written."""
        word = self.words[position]
        known = {w.text for w in self.words}
        if word.category == AGREEMENT:
            options = [table[word.text] for table in (NUMBER, TENSE) if word.text in table]
        elif word.category == PRONOUNS:
            options = self.other_pronouns(position)
        elif word.category in (NAMES, POSSESSIONS):
            tables = self.name_tables() if word.category == NAMES else self.noun_tables()
            same = next((words for table in tables if word.text in (words := distinguishing_words(table))), [])
            options = self.shuffled([o for o in same if o in known and o != word.text])
            options += self.shuffled([o for o in same if o not in known])[:2]
        else:
            options = []
        return [option for option in options if not self.is_valid_prefix(self.replace_word(position, option))]

    def other_pronouns(self, position: int) -> list[str]:
        """The pronoun of somebody else, in the same role."""
        word = self.words[position].text
        relations = set(distinguishing_words(self.world.tables.relations))
        if position + 1 < len(self.words) and self.words[position + 1].text in relations:
            return [POSSESSIVE[word]]
        starts = self.spans[position][0] == self.sentences[self.sentence_of(position)][0]
        subject = starts or word in ("she", "he", "they") or self.words[position - 1].text == "because"
        table = SUBJECT if subject else OBJECT
        return [table[word]] if word in table else []

    def name_tables(self) -> list[Table]:
        """The tables that names come from."""
        words = self.world.tables
        return [words.people["any"], words.surnames, words.groups]

    def noun_tables(self) -> list[Table]:
        """The tables that things come from here: singular and plural."""
        domain = next(d for d in self.world.tables.domains if d.name == self.reading.topic)
        return [domain.described[0], domain.nouns[2]]


def distinguishing_words(table: Table) -> list[str]:
    """The words by which the phrases of a table are told apart."""
    return [tokens[-1] for tokens in table.tokens if tokens]


def topic(case: ParsedDocument) -> Example | None:
    """The domain shows in what people do and hold; the place that settles it is left out."""
    return {"text": case.text[case.sentences[1][0] :], "label": case.reading.topic}


def sentiment(case: ParsedDocument) -> Example | None:
    """ "It was not a dull morning. Everyone was proud." """
    judging = [slice(*case.sentences[sentence]) for sentence in case.reading.sentiment_sentences]
    if not judging:
        return None
    return {"text": " ".join(case.text[span] for span in judging), "label": case.reading.mood}


def acceptability(case: ParsedDocument) -> Example | None:
    """The sentence is chosen before the label, so that nothing but the violation tells the two apart."""
    violation = case.choice(["agreement", "word order"])
    broken = case.choice(agreement_violations(case) if violation == "agreement" else word_order_violations(case))
    if broken is None:
        return None
    sentence, wrong = broken
    acceptable = case.draw() < 0.5
    start, end = case.sentences[sentence]
    return {
        "text": case.text[start:end] if acceptable else wrong[start:],
        "label": "acceptable" if acceptable else "unacceptable",
        "violation": None if acceptable else violation,
    }


def agreement_violations(case: ParsedDocument) -> list[tuple[int, str]]:
    """Sentences, with the text to their end where a verb has the wrong number."""
    wrong = [
        (case.sentence_of(i), case.replace_word(i, NUMBER[word.text]))
        for i, word in enumerate(case.words)
        if word.category == AGREEMENT and word.text in NUMBER
    ]
    return [(sentence, text) for sentence, text in wrong if not case.is_valid_prefix(text)]


def word_order_violations(case: ParsedDocument) -> list[tuple[int, str]]:
    """Sentences, with the text to their end where a small word stands after the word that it belongs before."""
    wrong = []
    for i in case.shuffled(list(range(1, len(case.words))))[:20]:
        (start, middle), (rest, end) = case.spans[i - 1], case.spans[i]
        sentence = case.sentence_of(i)
        if case.words[i - 1].text in FUNCTION_WORDS and case.words[i].text[0].isalpha():
            swapped = case.text[:start] + case.text[rest:end] + " " + case.text[start:middle]
            wrong.append((sentence, swapped + case.text[end : case.sentences[sentence][1]]))
    return [(sentence, text) for sentence, text in wrong if not case.is_valid_prefix(text)]


def minimal_pair(case: ParsedDocument) -> Example | None:
    """Both texts are whole beginnings of a document, since names and possessions are settled sentences before."""
    category = case.choice([AGREEMENT, NAMES, POSSESSIONS, PRONOUNS])
    for position in case.shuffled([i for i, word in enumerate(case.words) if word.category == category]):
        if rivals := case.distractors(position):
            good, bad = case.replace_word(position, case.words[position].text), case.replace_word(position, rivals[0])
            return {"good": good, "bad": bad, "category": category}
    return None


def story_completion(case: ParsedDocument) -> Example | None:
    """Two words that can be wrong make four endings, so that each is as far from the others as the right one is."""
    sentence = case.choice(list(range(2, len(case.sentences))))
    if sentence is None:
        return None
    start, end = case.sentences[sentence]
    wrong = [(i, rivals[0]) for i in case.shuffled(case.positions(sentence)) if (rivals := case.distractors(i))]
    if len(wrong) < 2:
        return None
    right = case.text[start:end]
    (first, rival), (second, other) = sorted(wrong[:2])
    once, twice = case.replace_word(first, rival)[start:], case.replace_word(second, other)[start:]
    cut = case.spans[first][1] - start  # where the right ending goes on after the first of the two words
    both = once[: len(once) - len(right) + cut] + twice[cut:]
    if case.is_valid_prefix(f"{case.text[:start]}{both}"):
        return None
    choices = case.shuffled([right, once, twice, both])
    return {"context": case.text[: start - 1], "endings": choices, "label": choices.index(right)}


def cloze(case: ParsedDocument) -> Example | None:
    """A name or a thing from an earlier sentence, and nothing else could follow (or hardly)."""
    certain = [
        i
        for i, word in enumerate(case.words)
        if word.category in (NAMES, POSSESSIONS)
        and word.logp > MIN_CLOZE_LOGP
        and any(w.text == word.text and case.sentence_of(j) < case.sentence_of(i) for j, w in enumerate(case.words[:i]))
    ]
    position = case.choice(certain)
    if position is None:
        return None
    start, end = case.spans[position]
    return {"context": case.text[:start].rstrip(), "target": case.text[start:end]}


TASKS = {
    "topic": topic, "sentiment": sentiment, "acceptability": acceptability, "pairs": minimal_pair, "endings": story_completion,
    "cloze": cloze,
}  # fmt: skip


def examples(world: World, task: str, split: str, start: int = 0) -> Iterator[Example]:
    """The examples of a task, without end, from document `start` of the split on; not every document makes one."""
    for first in count(SPLITS[split] + start, 256):
        for document in world.documents(first, first + 256):
            example = TASKS[task](ParsedDocument(world, document))
            if example is not None:
                yield {"document": document.index - SPLITS[split], **example}
