"""The best that anyone can do at guessing a masked word, by Bayes' rule from the exact probabilities.

The posterior of a word is the probability of the document with that word, over the sum for all words. Only words with
which the text is still a document of the world count, and those are found by following every choice that fits around
the hole: the same sum as trying the whole vocabulary, in a small part of the time.
"""

import math
from collections.abc import Container, Sequence
from typing import NamedTuple

from bertgpt.tinyworld.grammar import END, NotInLanguage, Parser, Table, Tokens, cached_tokens, tokens_of
from bertgpt.tinyworld.world import World

MASK = "_"  # stands for the masked word; no word of the world


def fits(words: Tokens, wanted: Tokens) -> bool:
    """Whether words can stand where `wanted` stands, a hole taking any word."""
    return len(words) == len(wanted) and all(w in (word, MASK) for word, w in zip(words, wanted, strict=True))


class Choice(NamedTuple):
    """A choice, and how far into the text it looked."""

    chosen: int
    logp: float
    words: int
    reach: int  # the word after the last that could have shown another choice


class MaskedParser(Parser):
    """Reads a text with a hole along one path of choices, and notes the turnings it did not take.

    What is `known` are the choices of the text without a hole: those that look no further than the hole are the same.
    """

    def __init__(self, tokens: Tokens, hole: int, known: Sequence[Choice] = (), path: Sequence[int] = ()) -> None:
        super().__init__(tokens)
        self.mask, self.known_steps, self.path = hole, known, list(path)
        self.alternatives: list[list[int]] = []
        self.steps: list[Choice] = []
        self.logp = 0.0
        self._branches = 0

    def choose(self, table: Table, excluded: Container[str] = ()) -> int:
        if (step := self.reusable_step()) is None:
            reach = self.position + max(table.lengths, default=1)
            chosen = self.branch(table, excluded) if self.position <= self.mask < reach else self.match(table)
            if chosen is None or (excluded and table.phrases[chosen] in excluded):
                raise self.error()
            step = Choice(chosen, table.option_logp(chosen, excluded), len(table.tokens[chosen]), reach)
            self.fill(table.tokens[chosen])
        return self.apply(step)

    def choose_from(self, phrases: Sequence[str], weights: Sequence[float], categories: Sequence[str]) -> int:
        step = self.reusable_step()
        return super().choose_from(phrases, weights, categories) if step is None else self.apply(step)

    def reusable_step(self) -> Choice | None:
        """The choice that comes next, if the hole does not matter to it."""
        number = len(self.steps)
        return (
            self.known_steps[number]
            if number < len(self.known_steps) and self.known_steps[number].reach <= self.mask
            else None
        )

    def apply(self, step: Choice) -> int:
        """Go on after a choice."""
        self.steps.append(step)
        self.logp += step.logp
        self.position += step.words
        return step.chosen

    def branch(self, table: Table, excluded: Container[str]) -> int:
        """At the hole: as the path has it; behind its end the first option that fits, and the others for later."""
        if self._branches == len(self.path):
            fitting = [
                i for i, phrase in enumerate(table.phrases) if phrase not in excluded and self.can_follow(table, i)
            ]
            if not fitting:
                raise self.error()
            self.alternatives += [[*self.path, other] for other in fitting[1:]]
            self.path.append(fitting[0])
        self._branches += 1
        return self.path[self._branches - 1]

    def can_follow(self, table: Table, option: int) -> bool:
        """Whether an option fits the text here; a silent one may, unless the next word is known and denies it."""
        words = table.tokens[option]
        if words:
            return fits(words, self.tokens[self.position : self.position + len(words)])
        leads = dict(table.empty)[option]
        return self.position == self.mask or leads is None or self.tokens[self.position] in leads

    def emit(self, phrase: str, category: str = "rest") -> None:
        words = cached_tokens(phrase)
        if not fits(words, self.tokens[self.position : self.position + len(words)]):
            raise self.error()
        self.fill(words)
        self.position += len(words)

    def fill(self, words: Tokens) -> None:
        """Put into the hole what is spoken over it."""
        if self.position <= self.mask < self.position + len(words):
            self.tokens = (*self.tokens[: self.position], *words, *self.tokens[self.position + len(words) :])


class Oracle:
    """What can be said of the words of one document."""

    def __init__(self, world: World, text: str) -> None:
        self.world, self.tokens = world, (*tokens_of(text), END)
        guesser = MaskedParser(self.tokens, len(self.tokens))
        world.derive(guesser)
        self.known = guesser.steps

    def posterior(self, position: int) -> dict[str, float]:
        """The probability of every word that can stand at `position`, counted by `tokens_of`."""
        holed = (*self.tokens[:position], MASK, *self.tokens[position + 1 :])
        logps: dict[str, float] = {}
        paths: list[list[int]] = [[]]
        while paths:
            guesser = MaskedParser(holed, position, self.known, paths.pop())
            try:
                self.world.derive(guesser)
            except NotInLanguage:
                pass
            else:
                if guesser.position == len(holed):
                    logps[guesser.tokens[position]] = guesser.logp
            paths += guesser.alternatives
        highest = max(logps.values())
        total = math.fsum(math.exp(logp - highest) for logp in logps.values())
        return {word: math.exp(logp - highest) / total for word, logp in logps.items()}
