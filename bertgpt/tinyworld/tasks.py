"""tinyworld counterparts of evaluation sets: labeled examples from documents that no training corpus contains.

    topic          AG News    a document without its first sentence, and its domain
    sentiment      SST-2      the sentences with sentiment words, and their polarity
    acceptability  CoLA       a sentence, grammatical or with an agreement or word order violation
    pairs          BLiMP      minimal pairs: two texts that differ in one word, of which only one is possible
    endings        HellaSwag  story completion: a context and four next sentences, of which only one is possible
    cloze          LAMBADA    a context, and the word that must follow because of an earlier sentence

Labels are exact: a wrong text is one that the parser rejects as a prefix of any document.
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

SPLITS = {"train": 1 << 40, "dev": 1 << 41}  # index of the first document; corpora start at 0 and stay below
SENTENCE_END = re.compile(r"(?<=\.) ")  # direct speech ends in , or ! before its quotation mark
MIN_CLOZE_LOGP = math.log(0.9)  # lowest log-probability of a cloze target


def symmetric(pairs: dict[str, str]) -> dict[str, str]:
    """The pairs in both directions, in lower case and capitalized."""
    both = pairs | {b: a for a, b in pairs.items()}
    return both | {a.capitalize(): b.capitalize() for a, b in both.items()}


NUMBER = symmetric({"was": "were", "is": "are", "has": "have", "seems": "seem", "belongs": "belong"})
TENSE = symmetric({"was": "is", "had": "has", "seemed": "seems"}) | {"were": "are", "are": "were"}
SUBJECT, OBJECT = symmetric({"she": "he", "it": "they"}), symmetric({"her": "him", "it": "them"})
POSSESSIVE = {"her": "his", "his": "her", "their": "her"}
# swapping one of these with the next word ("the boat", "of Tarn") is ungrammatical in every sentence
FUNCTION_WORDS = frozenset({"the", "a", "an", "some", "of", "to", "at", "with", "in", "on"})


class ParsedDocument:
    """A document with its parse, its sentences and a random stream, from which an example is made."""

    def __init__(self, world: World, document: Document) -> None:
        self.world, self.document, self.text = world, document, document.text
        self.parse = world.parse(self.text)
        self.words = self.parse.words[:-1]
        self.spans = [match.span() for match in TOKEN.finditer(self.text)]  # of each word
        ends = [match.start() for match in SENTENCE_END.finditer(self.text)] + [len(self.text)]
        self.sentences = list(zip([0, *(end + 1 for end in ends)], ends, strict=False))  # spans
        self.draw = stream(world.seed, document.index, first=1 << 20).__next__  # past the draws of the document itself

    def choice(self, options: list[Any]) -> Any:
        """A uniformly random option; None if there are none."""
        return options[int(self.draw() * len(options))] if options else None

    def shuffled(self, options: list[Any]) -> list[Any]:
        """The options in random order."""
        return [options[i] for _, i in sorted((self.draw(), i) for i in range(len(options)))]

    def sentence_of(self, position: int) -> int:
        """Index of the sentence that contains a word."""
        return sum(end <= self.spans[position][0] for _, end in self.sentences)

    def replace_word(self, position: int, word: str) -> str:
        """The text up to the end of the sentence of a word, with this word replaced."""
        (start, end), (_, stop) = self.spans[position], self.sentences[self.sentence_of(position)]
        return self.text[:start] + word + self.text[end:stop]

    def is_valid_prefix(self, text: str) -> bool:
        """Whether some document starts with this text."""
        try:
            self.world.parse_prefix(text)
        except NotInLanguage:
            return False
        return True

    def distractors(self, position: int) -> list[str]:
        """Words of the same category that are impossible at this position."""
        word = self.words[position]
        in_text = {w.text for w in self.words}
        if word.category == AGREEMENT:
            options = [table[word.text] for table in (NUMBER, TENSE) if word.text in table]
        elif word.category == PRONOUNS:
            options = self.other_pronouns(position)
        elif word.category in (NAMES, POSSESSIONS):
            tables = self.name_tables() if word.category == NAMES else self.noun_tables()
            same = next((words for table in tables if word.text in (words := distinguishing_words(table))), [])
            options = self.shuffled([o for o in same if o in in_text and o != word.text])
            options += self.shuffled([o for o in same if o not in in_text])[:2]
        else:
            options = []
        return [option for option in options if not self.is_valid_prefix(self.replace_word(position, option))]

    def other_pronouns(self, position: int) -> list[str]:
        """The pronoun of another gender or number, in the same role."""
        word = self.words[position].text
        relations = set(distinguishing_words(self.world.tables.relations))
        if position + 1 < len(self.words) and self.words[position + 1].text in relations:
            return [POSSESSIVE[word]]
        starts = self.spans[position][0] == self.sentences[self.sentence_of(position)][0]
        subject = starts or word in ("she", "he", "they") or self.words[position - 1].text == "because"
        table = SUBJECT if subject else OBJECT
        return [table[word]] if word in table else []

    def name_tables(self) -> list[Table]:
        """The tables of names."""
        words = self.world.tables
        return [words.people["any"], words.surnames, words.groups]

    def noun_tables(self) -> list[Table]:
        """The tables of nouns in the document's domain: singular and plural."""
        domain = next(d for d in self.world.tables.domains if d.name == self.parse.topic)
        return [domain.described[0], domain.nouns[2]]


def distinguishing_words(table: Table) -> list[str]:
    """The last words of all phrases, which distinguish them."""
    return [tokens[-1] for tokens in table.tokens if tokens]


def topic(parsed: ParsedDocument) -> Example | None:
    """Topic classification by actions and things; the first sentence, which names the place, is left out."""
    return {"text": parsed.text[parsed.sentences[1][0] :], "label": parsed.parse.topic}


def sentiment(parsed: ParsedDocument) -> Example | None:
    """Sentiment classification, for example "It was not a dull morning. Everyone was proud." """
    spans = [slice(*parsed.sentences[sentence]) for sentence in parsed.parse.sentiment_sentences]
    if not spans:
        return None
    return {"text": " ".join(parsed.text[span] for span in spans), "label": parsed.parse.mood}


def acceptability(parsed: ParsedDocument) -> Example | None:
    """Acceptability. The sentence is chosen before the label, so that only the violation predicts the label."""
    violation = parsed.choice(["agreement", "word order"])
    find_violations = agreement_violations if violation == "agreement" else word_order_violations
    candidate = parsed.choice(find_violations(parsed))
    if candidate is None:
        return None
    sentence, wrong = candidate
    acceptable = parsed.draw() < 0.5
    start, end = parsed.sentences[sentence]
    return {
        "text": parsed.text[start:end] if acceptable else wrong[start:],
        "label": "acceptable" if acceptable else "unacceptable",
        "violation": None if acceptable else violation,
    }


def agreement_violations(parsed: ParsedDocument) -> list[tuple[int, str]]:
    """Agreement violations: for each, the sentence and the text up to its end, with a verb of the wrong number."""
    wrong = [
        (parsed.sentence_of(i), parsed.replace_word(i, NUMBER[word.text]))
        for i, word in enumerate(parsed.words)
        if word.category == AGREEMENT and word.text in NUMBER
    ]
    return [(sentence, text) for sentence, text in wrong if not parsed.is_valid_prefix(text)]


def word_order_violations(parsed: ParsedDocument) -> list[tuple[int, str]]:
    """Word order violations: for each, the sentence and the text up to its end, with a function word moved."""
    wrong = []
    for i in parsed.shuffled(list(range(1, len(parsed.words))))[:20]:
        (start, middle), (rest, end) = parsed.spans[i - 1], parsed.spans[i]
        sentence = parsed.sentence_of(i)
        if parsed.words[i - 1].text in FUNCTION_WORDS and parsed.words[i].text[0].isalpha():
            swapped = parsed.text[:start] + parsed.text[rest:end] + " " + parsed.text[start:middle]
            wrong.append((sentence, swapped + parsed.text[end : parsed.sentences[sentence][1]]))
    return [(sentence, text) for sentence, text in wrong if not parsed.is_valid_prefix(text)]


def minimal_pair(parsed: ParsedDocument) -> Example | None:
    """A minimal pair. Both texts start at the beginning: names and possessions depend on earlier sentences."""
    category = parsed.choice([AGREEMENT, NAMES, POSSESSIONS, PRONOUNS])
    for position in parsed.shuffled([i for i, word in enumerate(parsed.words) if word.category == category]):
        if wrong := parsed.distractors(position):
            good, bad = (parsed.replace_word(position, word) for word in (parsed.words[position].text, wrong[0]))
            return {"good": good, "bad": bad, "category": category}
    return None


def story_completion(parsed: ParsedDocument) -> Example | None:
    """Story completion. Two words, each right or wrong, make four endings: all are equally similar to the others."""
    sentence = parsed.choice(list(range(2, len(parsed.sentences))))
    if sentence is None:
        return None
    start, end = parsed.sentences[sentence]
    positions = [i for i in range(len(parsed.words)) if parsed.sentence_of(i) == sentence]
    wrong = [(i, words[0]) for i in parsed.shuffled(positions) if (words := parsed.distractors(i))]
    if len(wrong) < 2:
        return None
    correct = parsed.text[start:end]
    (first, first_wrong), (second, second_wrong) = sorted(wrong[:2])
    one, other = parsed.replace_word(first, first_wrong)[start:], parsed.replace_word(second, second_wrong)[start:]
    cut = parsed.spans[first][1] - start  # end of the first word in the correct ending
    both = one[: len(one) - len(correct) + cut] + other[cut:]
    if parsed.is_valid_prefix(f"{parsed.text[:start]}{both}"):
        return None
    endings = parsed.shuffled([correct, one, other, both])
    return {"context": parsed.text[: start - 1], "endings": endings, "label": endings.index(correct)}


def cloze(parsed: ParsedDocument) -> Example | None:
    """Cloze: the target is a name or thing of an earlier sentence, and (almost) certain."""
    candidates = [
        i
        for i, word in enumerate(parsed.words)
        if word.category in (NAMES, POSSESSIONS)
        and word.logp > MIN_CLOZE_LOGP
        and any(
            w.text == word.text and parsed.sentence_of(j) < parsed.sentence_of(i)
            for j, w in enumerate(parsed.words[:i])
        )
    ]
    position = parsed.choice(candidates)
    if position is None:
        return None
    start, end = parsed.spans[position]
    return {"context": parsed.text[:start].rstrip(), "target": parsed.text[start:end]}


TASKS = {
    "topic": topic,
    "sentiment": sentiment,
    "acceptability": acceptability,
    "pairs": minimal_pair,
    "endings": story_completion,
    "cloze": cloze,
}


def examples(world: World, task: str, split: str, start: int = 0) -> Iterator[Example]:
    """Infinite examples of a task, from document `start` of the split on. Not every document makes one."""
    for first in count(SPLITS[split] + start, 256):
        for document in world.documents(first, first + 256):
            example = TASKS[task](ParsedDocument(world, document))
            if example is not None:
                yield {"document": document.index - SPLITS[split], **example}
