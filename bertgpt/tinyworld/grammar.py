"""Probabilistic grammar: tables of phrases, a sampler and a parser, both with exact log-probabilities.

The grammar is code that asks an interpreter to `select` from a table of phrases or to `emit` fixed words. A `Sampler`
draws each choice and appends its phrase. A `Parser` reads a given text and recovers the one choice that explains it.
The grammar is unambiguous because **every choice is visible in the text where it is made**: the phrases of a table are
prefix-free, and an empty option (epsilon) has a lookahead set of words that can follow only this option. So the map
from choices to text is injective, and the probability of a document and of each of its words is known exactly.
"""

import math
import re
from bisect import bisect
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, takewhile
from typing import NamedTuple, Protocol

NAMES, PRONOUNS, POSSESSIONS, AGREEMENT, REST = "names", "pronouns", "possessions", "agreement", "rest"
CATEGORIES = (NAMES, PRONOUNS, POSSESSIONS, AGREEMENT, REST)

END = "\0"  # end of document: the last word of every parse, never part of a text

Tokens = tuple[str, ...]
WordSet = frozenset[str]
TOKEN = re.compile(r"[A-Za-z'-]+|[^\sA-Za-z]")


def tokens_of(text: str) -> Tokens:
    """Split a text into words and punctuation marks."""
    return tuple(TOKEN.findall(text))


cached_tokens = lru_cache(maxsize=1 << 14)(tokens_of)  # for phrases, which repeat


class Word(NamedTuple):
    """A word or punctuation mark, its log-probability given the preceding words, and its category."""

    text: str
    logp: float
    category: str


class NotInLanguage(ValueError):
    """The text is not in the language of the grammar. `position` is the index of the first impossible word."""

    def __init__(self, position: int, word: str) -> None:
        super().__init__(position, word)
        self.position, self.word = position, word

    def __str__(self) -> str:
        return f"word {self.position} ({self.word!r}) is not possible here"


class Table:
    """Phrases with their probabilities. `lookahead` has, for each empty phrase, the words that can follow it.

    A lookahead of None stands for all other words.
    """

    def __init__(
        self,
        phrases: Sequence[str],
        weights: Sequence[float] | None = None,
        category: str | Sequence[str] = REST,
        lookahead: Sequence[WordSet | None] | None = None,
    ) -> None:
        weights = [1.0] * len(phrases) if weights is None else weights
        total = math.fsum(weights)
        self.phrases = tuple(phrases)
        self.p = [weight / total for weight in weights]
        self.logp = [math.log(p) for p in self.p]
        self.cumulative = list(accumulate(self.p))[:-1]  # rounding errors go to the last phrase
        self.categories = [category] * len(phrases) if isinstance(category, str) else list(category)
        self.tokens = [cached_tokens(phrase) for phrase in phrases]
        self.index = {tokens: i for i, tokens in enumerate(self.tokens) if tokens}
        self.lengths = sorted({len(tokens) for tokens in self.index}, reverse=True)
        empty = [i for i, tokens in enumerate(self.tokens) if not tokens]
        self.empty = [(i, None if lookahead is None else lookahead[i]) for i in empty]
        if len(self.index) + len(empty) < len(phrases):
            raise ValueError(f"duplicate phrase in {phrases}")
        for tokens in self.index:
            if any(tokens[:n] in self.index for n in self.lengths if n < len(tokens)):
                raise ValueError(f"another phrase is a prefix of {' '.join(tokens)!r}")
        following = [word for _, words in self.empty for word in words or ()]
        if len(set(following)) < len(following) or len([words for _, words in self.empty if words is None]) > 1:
            raise ValueError("lookahead sets of two empty phrases overlap")
        self.first_words = Counter(tokens[0] for tokens in self.index)

    def option_logp(self, chosen: int, excluded: Container[str]) -> float:
        """Log-probability of a phrase, given that it is not in `excluded`."""
        if not excluded:
            return self.logp[chosen]
        mass = math.fsum(p for phrase, p in zip(self.phrases, self.p, strict=True) if phrase not in excluded)
        return self.logp[chosen] - math.log(mass)

    def word_logps(self, chosen: int, excluded: Container[str]) -> list[float]:
        """Log-probability of each word of a phrase given the words before it and that it is not in `excluded`."""
        words = self.tokens[chosen]
        if not excluded and words and self.first_words[words[0]] == 1:
            return [self.logp[chosen]] + [0.0] * (len(words) - 1)
        open_options = [i for i, phrase in enumerate(self.phrases) if phrase not in excluded]
        logps, before = [], math.fsum(self.p[i] for i in open_options)
        for n in range(1, len(words) + 1):
            open_options = [i for i in open_options if self.tokens[i][:n] == words[:n]]
            mass = math.fsum(self.p[i] for i in open_options)
            logps.append(math.log(mass / before))
            before = mass
        return logps


class Interpreter(Protocol):
    """What the grammar is written against: the Sampler, the Parser, or an enumerator of all documents."""

    def select(self, table: Table, excluded: Container[str] = ()) -> int:
        """Choose a phrase of the table that is not in `excluded`, and emit it; returns its index."""

    def select_from(self, phrases: Sequence[str], weights: Sequence[float], categories: Sequence[str]) -> int:
        """Choose from a few phrases that depend on the document so far; at most one is empty."""

    def emit(self, phrase: str, category: str = REST) -> None:
        """Emit words that follow from earlier choices."""


class Sampler:
    """Samples every choice, from a stream of uniform numbers in [0, 1)."""

    def __init__(self, draws: Iterator[float]) -> None:
        self.next_draw = draws.__next__
        self.pieces: list[str] = []
        self.logp = 0.0

    def select(self, table: Table, excluded: Container[str] = ()) -> int:
        phrases = table.phrases
        chosen = bisect(table.cumulative, self.next_draw())
        if excluded:
            mass = math.fsum(p for phrase, p in zip(phrases, table.p, strict=True) if phrase in excluded)
            if mass > 1 - 1e-9:
                raise ValueError(f"all phrases are excluded: {phrases}")
            while phrases[chosen] in excluded:
                chosen = bisect(table.cumulative, self.next_draw())
            self.logp -= math.log1p(-mass)
        self.logp += table.logp[chosen]
        self.pieces.append(phrases[chosen])
        return chosen

    def select_from(self, phrases: Sequence[str], weights: Sequence[float], categories: Sequence[str]) -> int:
        total = sum(weights)
        remaining = self.next_draw() * total
        chosen = 0
        while remaining >= weights[chosen] and chosen + 1 < len(phrases):
            remaining -= weights[chosen]
            chosen += 1
        self.logp += math.log(weights[chosen] / total)
        self.pieces.append(phrases[chosen])
        return chosen

    def emit(self, phrase: str, category: str = REST) -> None:
        self.pieces.append(phrase)

    def text(self) -> str:
        """The document. Spaces are part of the phrases."""
        return "".join(self.pieces).rstrip(END).lstrip(" ")


class Parser:
    """Recovers the choices behind a text, word by word; raises NotInLanguage where no choice explains the next word.

    A prefix of a document parses up to its end: all its words are recorded before the error is raised.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.position = 0
        self.words: list[Word] = []
        self.pieces: list[str] = []
        self._empty_logp = 0.0  # of empty options since the last word; added to the next word

    def select(self, table: Table, excluded: Container[str] = ()) -> int:
        chosen = self.match(table)
        if chosen is None or (excluded and table.phrases[chosen] in excluded):
            self.consume_partial(table, excluded)
            raise self.error()
        self.consume(
            table.phrases[chosen], table.word_logps(chosen, excluded), table.categories[chosen], table.logp[chosen]
        )
        return chosen

    def select_from(self, phrases: Sequence[str], weights: Sequence[float], categories: Sequence[str]) -> int:
        return self.select(Table(phrases, weights, categories))

    def emit(self, phrase: str, category: str = REST) -> None:
        words = cached_tokens(phrase)
        if self.tokens[self.position : self.position + len(words)] != words:
            pairs = zip(self.tokens[self.position :], words, strict=False)
            matching = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            self.consume(first_words_of(phrase, matching), [0.0] * matching, REST, 0.0)
            raise self.error()
        self.consume(phrase, [0.0] * len(words), category, 0.0)

    def match(self, table: Table) -> int | None:
        """The option of the table that the next words show, if any."""
        at = self.position
        for n in table.lengths:
            chosen = table.index.get(self.tokens[at : at + n])
            if chosen is not None:
                return chosen
        rest = self.tokens[at:] if table.lengths and len(self.tokens) - at < table.lengths[0] else ()
        if rest and any(words[: len(rest)] == rest for words in table.index):
            return None  # the text ends inside a phrase
        next_word = self.tokens[at] if at < len(self.tokens) else ""
        for chosen, lookahead in table.empty:
            if lookahead is None or next_word in lookahead:
                return chosen
        return None

    def consume_partial(self, table: Table, excluded: Container[str]) -> None:
        """Consume the rest of a text that ends inside a phrase."""
        rest = self.tokens[self.position :]
        for i, words in enumerate(table.tokens):
            if rest and words[: len(rest)] == rest and table.phrases[i] not in excluded:
                logps = table.word_logps(i, excluded)[: len(rest)]
                self.consume(first_words_of(table.phrases[i], len(rest)), logps, REST, 0.0)
                return

    def consume(self, phrase: str, logps: list[float], category: str, option_logp: float) -> None:
        """Consume the next words of the text as a phrase with these log-probabilities."""
        self.pieces.append(phrase)
        if not logps:
            self._empty_logp += option_logp
            return
        logps[0] += self._empty_logp
        self._empty_logp = 0.0
        last = self.position + len(logps) - 1
        for logp in logps:  # only the last word of a phrase has its category: "the lantern"
            tag = category if self.position == last else REST
            self.words.append(Word(self.tokens[self.position], logp, tag))
            self.position += 1

    def error(self) -> NotInLanguage:
        """The error for the current position."""
        return NotInLanguage(
            self.position, self.tokens[self.position] if self.position < len(self.tokens) else "the end"
        )

    def text(self) -> str:
        """The text regenerated from the choices; it differs from the input if the spacing does."""
        return "".join(self.pieces).rstrip(END).lstrip(" ")


def first_words_of(phrase: str, words: int) -> str:
    """The first words of a phrase, with their spaces."""
    ends = [match.end() for match in TOKEN.finditer(phrase)]
    return phrase[: ends[words - 1]] if words else ""
