"""Bayes-optimal prediction of a masked word, from the exact probabilities of the grammar.

The posterior of a word is the probability of the document with this word, divided by the sum over all words. Only words
that leave the document in the language have probability. They are found by following every choice that fits around the
mask: the same result as trying the whole vocabulary, much faster.
"""

import math
from collections.abc import Container, Sequence
from typing import NamedTuple

from bertgpt.tinyworld.grammar import END, REST, NotInLanguage, Parser, Table, Tokens, cached_tokens, tokens_of
from bertgpt.tinyworld.world import World

MASK = "_"  # not a word of the language


def matches(words: Tokens, pattern: Tokens) -> bool:
    """Whether words match a pattern, in which the mask matches any word."""
    return len(words) == len(pattern) and all(p in (word, MASK) for word, p in zip(words, pattern, strict=True))


class Choice(NamedTuple):
    """A choice of the parser, and how far it depends on the text."""

    option: int
    logp: float
    num_words: int
    reach: int  # the choice depends only on words before this position


class MaskedParser(Parser):
    """Parses a text with one masked word along one path of choices, and records the alternatives to it.

    `known_choices` are those of the unmasked text: choices that reach no further than the mask are the same.
    """

    def __init__(
        self, tokens: Tokens, mask: int, known_choices: Sequence[Choice] = (), path: Sequence[int] = ()
    ) -> None:
        super().__init__(tokens)
        self.mask, self.known_choices, self.path = mask, known_choices, list(path)
        self.alternatives: list[list[int]] = []
        self.choices: list[Choice] = []
        self.logp = 0.0
        self._num_branches = 0

    def select(self, table: Table, excluded: Container[str] = ()) -> int:
        if (choice := self.next_known()) is None:
            reach = self.position + max(table.lengths, default=1)
            option = self.branch(table, excluded) if self.position <= self.mask < reach else self.match(table)
            if option is None or (excluded and table.phrases[option] in excluded):
                raise self.error()
            choice = Choice(option, table.option_logp(option, excluded), len(table.tokens[option]), reach)
            self.unmask(table.tokens[option])
        return self.apply(choice)

    def select_from(self, phrases: Sequence[str], weights: Sequence[float], categories: Sequence[str]) -> int:
        choice = self.next_known()
        return super().select_from(phrases, weights, categories) if choice is None else self.apply(choice)

    def next_known(self) -> Choice | None:
        """The next choice, if it does not depend on the masked word."""
        i, known = len(self.choices), self.known_choices
        return known[i] if i < len(known) and known[i].reach <= self.mask else None

    def apply(self, choice: Choice) -> int:
        """Record a choice and advance past its words."""
        self.choices.append(choice)
        self.logp += choice.logp
        self.position += choice.num_words
        return choice.option

    def branch(self, table: Table, excluded: Container[str]) -> int:
        """The option at the mask: from the path, or past its end the first that fits; the others are alternatives."""
        if self._num_branches == len(self.path):
            options = [
                i for i, phrase in enumerate(table.phrases) if phrase not in excluded and self.can_follow(table, i)
            ]
            if not options:
                raise self.error()
            self.alternatives += [[*self.path, option] for option in options[1:]]
            self.path.append(options[0])
        self._num_branches += 1
        return self.path[self._num_branches - 1]

    def can_follow(self, table: Table, option: int) -> bool:
        """Whether an option fits the text; an empty one unless the next word is known and not in its lookahead."""
        words = table.tokens[option]
        if words:
            return matches(words, self.tokens[self.position : self.position + len(words)])
        lookahead = dict(table.empty)[option]
        return self.position == self.mask or lookahead is None or self.tokens[self.position] in lookahead

    def emit(self, phrase: str, category: str = REST) -> None:
        words = cached_tokens(phrase)
        if not matches(words, self.tokens[self.position : self.position + len(words)]):
            raise self.error()
        self.unmask(words)
        self.position += len(words)

    def unmask(self, words: Tokens) -> None:
        """Replace the mask, if these words cover it."""
        if self.position <= self.mask < self.position + len(words):
            self.tokens = (*self.tokens[: self.position], *words, *self.tokens[self.position + len(words) :])


class Oracle:
    """Bayes-optimal predictions for the words of one document."""

    def __init__(self, world: World, text: str) -> None:
        self.world, self.tokens = world, (*tokens_of(text), END)
        parser = MaskedParser(self.tokens, len(self.tokens))
        world.derive(parser)
        self.choices = parser.choices

    def posterior(self, position: int) -> dict[str, float]:
        """Posterior distribution of the word at `position`, an index into `tokens_of(text)`, given all others."""
        masked = (*self.tokens[:position], MASK, *self.tokens[position + 1 :])
        logps: dict[str, float] = {}
        paths: list[list[int]] = [[]]
        while paths:
            parser = MaskedParser(masked, position, self.choices, paths.pop())
            try:
                self.world.derive(parser)
            except NotInLanguage:
                pass
            else:
                if parser.position == len(masked):
                    logps[parser.tokens[position]] = parser.logp
            paths += parser.alternatives
        highest = max(logps.values())
        total = math.fsum(math.exp(logp - highest) for logp in logps.values())
        return {word: math.exp(logp - highest) / total for word, logp in logps.items()}
