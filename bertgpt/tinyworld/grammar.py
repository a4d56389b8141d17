"""Tables of phrases, and the two who work through a story with them: the Writer and the Reader.

The grammar asks its teller to `choose` from a table or to `say` fixed words. A Writer draws the choice and appends
the phrase. A Reader looks at a given text and finds the one choice that explains it. Both keep the exact
log-probability. This works because **every choice shows at the place where it is made**: the phrases of a table are
prefix-free, and a silent option (an empty phrase) names the words that can only follow it. So the text is a
transcript of the choices, the map from choices to text is injective, and the probability of each single word is
known as well as that of the whole.
"""

import math
import re
from bisect import bisect
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, Protocol

NAMES, PRONOUNS, POSSESSIONS, AGREEMENT, REST = "names", "pronouns", "possessions", "agreement", "rest"
CATEGORIES = (NAMES, PRONOUNS, POSSESSIONS, AGREEMENT, REST)

END = "\0"  # the ending of a document: the last word of every transcript, and of no text

Tokens = tuple[str, ...]
WordSet = frozenset[str]
TOKEN = re.compile(r"[A-Za-z'-]+|[^\sA-Za-z]")


def tokens_of(text: str) -> Tokens:
    """The words and punctuation marks of a text."""
    return tuple(TOKEN.findall(text))


cached_tokens = lru_cache(maxsize=1 << 14)(tokens_of)  # the same for phrases, which come again and again


class Word(NamedTuple):
    """One word or mark of a document: its log-probability given all before it, and the mechanism behind it."""

    text: str
    logp: float
    category: str


class NotInLanguage(ValueError):
    """The text is not one that the grammar can write; `position` counts words from 0."""

    def __init__(self, position: int, word: str) -> None:
        super().__init__(position, word)
        self.position, self.word = position, word

    def __str__(self) -> str:
        return f"word {self.position} ({self.word!r}) cannot stand here"


class Table:
    """Phrases with their probabilities; `leads` holds, for each silent phrase, the words that reveal it."""

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
        self.cumulative = list(accumulate(self.p))[:-1]  # the last phrase takes what rounding leaves
        self.categories = [category] * len(phrases) if isinstance(category, str) else list(category)
        self.tokens = [cached_tokens(phrase) for phrase in phrases]
        self.index = {tokens: i for i, tokens in enumerate(self.tokens) if tokens}
        self.lengths = sorted({len(tokens) for tokens in self.index}, reverse=True)
        silent = [i for i, tokens in enumerate(self.tokens) if not tokens]
        self.empty = [(i, None if lookahead is None else lookahead[i]) for i in silent]
        if len(self.index) + len(silent) < len(phrases):
            raise ValueError(f"a phrase stands twice in {phrases}")
        for tokens in self.index:
            if any(tokens[:n] in self.index for n in self.lengths if n < len(tokens)):
                raise ValueError(f"another phrase is the beginning of {' '.join(tokens)!r}")
        revealing = [word for _, lead in self.empty for word in lead or ()]
        if len(set(revealing)) < len(revealing) or len([lead for _, lead in self.empty if lead is None]) > 1:
            raise ValueError("two silent options are revealed by the same word")
        self._starts = Counter(tokens[0] for tokens in self.index)

    def first_words(self) -> WordSet:
        """The words with which a phrase of this table can begin."""
        return frozenset(self._starts)

    def option_logp(self, chosen: int, excluded: Container[str]) -> float:
        """The log-probability of a phrase, where those in `taken` are excluded."""
        if not excluded:
            return self.logp[chosen]
        left = math.fsum(p for phrase, p in zip(self.phrases, self.p, strict=True) if phrase not in excluded)
        return self.logp[chosen] - math.log(left)

    def word_logps(self, chosen: int, excluded: Container[str]) -> list[float]:
        """The log-probability of each word of a phrase given the words before it; phrases in `taken` are excluded."""
        words = self.tokens[chosen]
        if not excluded and words and self._starts[words[0]] == 1:
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
    """Who works through a document: the grammar is written against these three."""

    def choose(self, table: Table, excluded: Container[str] = ()) -> int:
        """Settle on one phrase of the table that is not in `taken`, and tell it."""

    def choose_from(self, phrases: Sequence[str], weights: Sequence[float], categories: Sequence[str]) -> int:
        """The same for a few phrases that depend on the story so far; at most one is silent."""

    def emit(self, phrase: str, category: str = REST) -> None:
        """Tell words that nothing is left to choose about."""


class Sampler:
    """Draws every choice from a stream of numbers in [0, 1)."""

    def __init__(self, draws: Iterator[float]) -> None:
        self.next_draw = draws.__next__
        self.pieces: list[str] = []
        self.logp = 0.0

    def choose(self, table: Table, excluded: Container[str] = ()) -> int:
        phrases = table.phrases
        chosen = bisect(table.cumulative, self.next_draw())
        if excluded:
            mass = math.fsum(p for phrase, p in zip(phrases, table.p, strict=True) if phrase in excluded)
            if mass > 1 - 1e-9:
                raise ValueError(f"nothing is left to choose from {phrases}")
            while phrases[chosen] in excluded:
                chosen = bisect(table.cumulative, self.next_draw())
            self.logp -= math.log1p(-mass)
        self.logp += table.logp[chosen]
        self.pieces.append(phrases[chosen])
        return chosen

    def choose_from(self, phrases: Sequence[str], weights: Sequence[float], categories: Sequence[str]) -> int:
        total = sum(weights)
        left = self.next_draw() * total
        chosen = 0
        while left >= weights[chosen] and chosen + 1 < len(phrases):
            left -= weights[chosen]
            chosen += 1
        self.logp += math.log(weights[chosen] / total)
        self.pieces.append(phrases[chosen])
        return chosen

    def emit(self, phrase: str, category: str = REST) -> None:
        self.pieces.append(phrase)

    def text(self) -> str:
        """The finished document; the spacing of the pieces is part of the grammar."""
        return "".join(self.pieces).rstrip(END).lstrip(" ")


class Parser:
    """Finds the choices behind a text, word by word; raises Unreadable where there are none.

    A text may break off anywhere: its last words are told as far as they go before the end is found unreadable.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.position = 0
        self.words: list[Word] = []
        self.pieces: list[str] = []
        self._empty_logp = 0.0  # of silent choices: they show in the next word, so it carries them

    def choose(self, table: Table, excluded: Container[str] = ()) -> int:
        chosen = self.match(table)
        if chosen is None or (excluded and table.phrases[chosen] in excluded):
            self.consume_partial(table, excluded)
            raise self.error()
        self.consume(
            table.phrases[chosen], table.word_logps(chosen, excluded), table.categories[chosen], table.logp[chosen]
        )
        return chosen

    def choose_from(self, phrases: Sequence[str], weights: Sequence[float], categories: Sequence[str]) -> int:
        return self.choose(Table(phrases, weights, categories))

    def emit(self, phrase: str, category: str = REST) -> None:
        words = cached_tokens(phrase)
        if self.tokens[self.position : self.position + len(words)] != words:
            agreeing = 0
            while (
                self.tokens[self.position + agreeing : self.position + agreeing + 1] == words[agreeing : agreeing + 1]
            ):
                agreeing += 1
            self.consume(first_words_of(phrase, agreeing), [0.0] * agreeing, REST, 0.0)
            raise self.error()
        self.consume(phrase, [0.0] * len(words), category, 0.0)

    def match(self, table: Table) -> int | None:
        """The option of the table that the coming words show, if any."""
        at = self.position
        for n in table.lengths:
            chosen = table.index.get(self.tokens[at : at + n])
            if chosen is not None:
                return chosen
        left = self.tokens[at:] if table.lengths and len(self.tokens) - at < table.lengths[0] else ()
        if left and any(words[: len(left)] == left for words in table.index):
            return None  # the text breaks off inside a phrase
        coming = self.tokens[at] if at < len(self.tokens) else ""
        for chosen, leads in table.empty:
            if leads is None or coming in leads:
                return chosen
        return None

    def consume_partial(self, table: Table, excluded: Container[str]) -> None:
        """Where the text ends inside a phrase, tell the words that are there."""
        left = self.tokens[self.position :]
        for i, words in enumerate(table.tokens):
            if left and words[: len(left)] == left and table.phrases[i] not in excluded:
                logps = table.word_logps(i, excluded)[: len(left)]
                self.consume(first_words_of(table.phrases[i], len(left)), logps, REST, 0.0)
                return

    def consume(self, phrase: str, logps: list[float], category: str, option_logp: float) -> None:
        """Take the next words of the text for this phrase."""
        self.pieces.append(phrase)
        if not logps:
            self._empty_logp += option_logp
            return
        logps[0] += self._empty_logp
        self._empty_logp = 0.0
        last = self.position + len(logps) - 1
        for logp in logps:  # a phrase belongs to its mechanism through its last word: "the lantern", "was"
            tag = category if self.position == last else REST
            self.words.append(Word(self.tokens[self.position], logp, tag))
            self.position += 1

    def error(self) -> NotInLanguage:
        """The error for the place reached."""
        return NotInLanguage(
            self.position, self.tokens[self.position] if self.position < len(self.tokens) else "the end"
        )

    def text(self) -> str:
        """The text written again from the choices found."""
        return "".join(self.pieces).rstrip(END).lstrip(" ")


def first_words_of(phrase: str, words: int) -> str:
    """The first words of a phrase, with the spaces before them."""
    ends = [match.end() for match in TOKEN.finditer(phrase)]
    return phrase[: ends[words - 1]] if words else ""
