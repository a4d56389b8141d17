"""The world itself: its documents, in any number and order, and the exact probability of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count

import numpy as np

from bertgpt.tinyworld.grammar import END, Interpreter, NotInLanguage, Parser, Sampler, Table, Word, tokens_of
from bertgpt.tinyworld.notices import NOTICES, Notice
from bertgpt.tinyworld.stories import Story
from bertgpt.tinyworld.tables import MOODS, WorldTables
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
class Parse:
    """What the parser recovers from a text alone."""

    words: list[Word]  # every word and mark, and the ending
    topic: str
    genre: str
    mood: str | None
    sentiment_sentences: tuple[int, ...]  # the sentences, counted from 0, that say what to think of things

    @property
    def logp(self) -> float:
        """Natural logarithm of the probability of the document."""
        return sum(word.logp for word in self.words)


class World:
    """Documents as a function of (seed, index)."""

    def __init__(self, seed: int = 0, tables: WorldTables | None = None, lengths: tuple[int, int] = LENGTHS) -> None:
        self.seed, self.lengths = seed, lengths
        self.tables = tables or WorldTables()

    def derive(self, teller: Interpreter) -> Story | Notice:
        """Work through one document with a teller."""
        opening = OPENINGS.phrases[teller.choose(OPENINGS)]
        if opening in NOTICES:
            notice = Notice(teller, self.tables)
            notice.derive(opening)
            return notice
        story = Story(teller, self.tables)
        story.derive(opening, self.lengths)
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
        writer = Sampler(draws)
        tale = self.derive(writer)
        return Document(index, writer.text(), writer.logp, tale.domain.name, tale.genre, MOODS[tale.mood])

    def parse(self, text: str) -> Parse:
        """Recover the choices behind a document; raises Unreadable if this world has no such document."""
        reader = Parser((*tokens_of(text), END))
        tale = self.derive(reader)
        if reader.position < len(reader.tokens) or reader.text() != text:
            raise reader.error()
        return Parse(reader.words, tale.domain.name, tale.genre, MOODS[tale.mood], tuple(tale.sentiment_sentences))

    def parse_prefix(self, text: str) -> list[Word]:
        """The words of a text that some document begins with; raises Unreadable if none does."""
        reader = Parser(tokens_of(text))
        try:
            self.derive(reader)
        except NotInLanguage as stopped:
            if stopped.position < len(reader.tokens):
                raise
        if reader.text() != text:
            raise reader.error()  # the words are right and the spaces are not
        return reader.words
