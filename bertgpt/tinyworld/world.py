"""The corpus: documents by index, their exact log-probabilities, and the parser that recovers both from a text."""

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
LENGTHS = (3, 15)  # fewest and most sentences of a story
DRAWS_PER_DOCUMENT, BLOCK = 160, 256  # random numbers drawn ahead for each document; documents sampled at once


@dataclass(frozen=True)
class Document:
    """A sampled document and its labels."""

    index: int
    text: str
    logp: float  # log-probability in nats, including the end of the document
    topic: str
    genre: str
    mood: str | None  # "good" or "bad"; None without sentiment words


@dataclass(frozen=True)
class Parse:
    """What the parser recovers from a text."""

    words: list[Word]  # all words and punctuation marks, and END
    topic: str
    genre: str
    mood: str | None
    sentiment_sentences: tuple[int, ...]  # indices of sentences with sentiment words

    @property
    def logp(self) -> float:
        """Log-probability of the document in nats."""
        return sum(word.logp for word in self.words)


class World:
    """The corpus of a seed: every document is a function of (seed, index)."""

    def __init__(self, seed: int = 0, tables: WorldTables | None = None, lengths: tuple[int, int] = LENGTHS) -> None:
        self.seed, self.lengths = seed, lengths
        self.tables = tables or WorldTables()

    def derive(self, interpreter: Interpreter) -> Story | Notice:
        """Run the grammar for one document."""
        opening = OPENINGS.phrases[interpreter.select(OPENINGS)]
        if opening in NOTICES:
            notice = Notice(interpreter, self.tables)
            notice.derive(opening)
            return notice
        story = Story(interpreter, self.tables)
        story.derive(opening, self.lengths)
        return story

    def documents(self, start: int = 0, stop: int | None = None) -> Iterator[Document]:
        """Documents `start` to `stop`, or infinitely many."""
        for first in count(start, BLOCK) if stop is None else range(start, stop, BLOCK):
            indices = range(first, first + BLOCK if stop is None else min(first + BLOCK, stop))
            draws = uniform(self.seed, np.array(indices, np.uint64), DRAWS_PER_DOCUMENT).tolist()
            for index, row in zip(indices, draws, strict=True):
                yield self._sample(index, chain(row, stream(self.seed, index, first=DRAWS_PER_DOCUMENT)))

    def document(self, index: int) -> Document:
        """The document of an index."""
        return next(self.documents(index, index + 1))

    def _sample(self, index: int, draws: Iterator[float]) -> Document:
        sampler = Sampler(draws)
        state = self.derive(sampler)
        return Document(index, sampler.text(), sampler.logp, state.domain.name, state.genre, MOODS[state.mood])

    def parse(self, text: str) -> Parse:
        """Parse a document; raises NotInLanguage if the grammar cannot generate it."""
        parser = Parser((*tokens_of(text), END))
        state = self.derive(parser)
        if parser.position < len(parser.tokens) or parser.text() != text:
            raise parser.error()
        return Parse(parser.words, state.domain.name, state.genre, MOODS[state.mood], tuple(state.sentiment_sentences))

    def parse_prefix(self, text: str) -> list[Word]:
        """Parse a prefix of a document; raises NotInLanguage if no document starts with it."""
        parser = Parser(tokens_of(text))
        try:
            self.derive(parser)
        except NotInLanguage as error:
            if error.position < len(parser.tokens):
                raise
        if parser.text() != text:
            raise parser.error()  # the words match, but the spacing does not
        return parser.words
