"""The world itself: its documents, in any number and order, and the exact probability of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count

import numpy as np

from bertgpt.tinyworld.grammar import END, NotInLanguage, Reader, Table, Teller, Word, Writer, tokens_of
from bertgpt.tinyworld.notices import NOTICES, Notice
from bertgpt.tinyworld.stories import Story
from bertgpt.tinyworld.tables import MOODS, Words
from bertgpt.utils.rng import stream, uniform

OPENINGS = Table(["It", "There", *NOTICES], [0.5, 0.32, 0.05, 0.04, 0.05, 0.04])
LENGTHS = (3, 15)  # sentences in a story
DRAWS, BLOCK = 160, 256  # numbers made ready for each document, documents at a time


@dataclass(frozen=True)
class Document:
    """A document as it was written, and what is known about it."""

    index: int
    text: str
    logp: float  # natural logarithm of its probability, the ending included
    topic: str
    genre: str
    mood: str | None  # "good" or "bad"; None where nothing is judged


@dataclass(frozen=True)
class Reading:
    """What the parser recovers from a text alone."""

    words: list[Word]  # every word and mark, and the ending
    topic: str
    genre: str
    mood: str | None
    judging: tuple[int, ...]  # the sentences, counted from 0, that say what to think of things

    @property
    def logp(self) -> float:
        """Natural logarithm of the probability of the document."""
        return sum(word.logp for word in self.words)


class World:
    """Documents as a function of (seed, index)."""

    def __init__(self, seed: int = 0, words: Words | None = None, lengths: tuple[int, int] = LENGTHS) -> None:
        self.seed, self.lengths = seed, lengths
        self.words = words or Words()

    def tell(self, teller: Teller) -> Story | Notice:
        """Work through one document with a teller."""
        opening = OPENINGS.phrases[teller.choose(OPENINGS)]
        if opening in NOTICES:
            notice = Notice(teller, self.words)
            notice.tell(opening)
            return notice
        story = Story(teller, self.words)
        story.tell(opening, self.lengths)
        return story

    def documents(self, start: int = 0, stop: int | None = None) -> Iterator[Document]:
        """Documents `start` to `stop`, or without end."""
        for first in count(start, BLOCK) if stop is None else range(start, stop, BLOCK):
            indices = range(first, first + BLOCK if stop is None else min(first + BLOCK, stop))
            draws = uniform(self.seed, np.array(indices, np.uint64), DRAWS).tolist()
            for index, row in zip(indices, draws, strict=True):
                yield self._write(index, chain(row, stream(self.seed, index, first=DRAWS)))

    def document(self, index: int) -> Document:
        """One document."""
        return next(self.documents(index, index + 1))

    def _write(self, index: int, draws: Iterator[float]) -> Document:
        writer = Writer(draws)
        tale = self.tell(writer)
        return Document(index, writer.text(), writer.logp, tale.domain.name, tale.genre, MOODS[tale.mood])

    def read(self, text: str) -> Reading:
        """Recover the choices behind a document; raises Unreadable if this world has no such document."""
        reader = Reader((*tokens_of(text), END))
        tale = self.tell(reader)
        if reader.at < len(reader.tokens) or reader.text() != text:
            raise reader.unreadable()
        return Reading(reader.words, tale.domain.name, tale.genre, MOODS[tale.mood], tuple(tale.judging))

    def read_beginning(self, text: str) -> list[Word]:
        """The words of a text that some document begins with; raises Unreadable if none does."""
        reader = Reader(tokens_of(text))
        try:
            self.tell(reader)
        except NotInLanguage as stopped:
            if stopped.position < len(reader.tokens):
                raise
        if reader.text() != text:
            raise reader.unreadable()  # the words are right and the spaces are not
        return reader.words
