"""The best that anyone can do at guessing a masked word, by Bayes' rule from the exact probabilities.

The posterior of a word is the probability of the document with that word, over the sum for all words. Only words with
which the text is still a document of the world count, and those are found by following every choice that fits around
the hole: the same sum as trying the whole vocabulary, in a small part of the time.
"""

import math
from collections.abc import Container, Sequence
from typing import NamedTuple

from bertgpt.tinyworld.grammar import END, NotInLanguage, Reader, Table, Tokens, cached_tokens, tokens_of
from bertgpt.tinyworld.world import World

HOLE = "_"  # stands for the masked word; no word of the world


def fits(words: Tokens, wanted: Tokens) -> bool:
    """Whether words can stand where `wanted` stands, a hole taking any word."""
    return len(words) == len(wanted) and all(w in (word, HOLE) for word, w in zip(words, wanted, strict=True))


class Step(NamedTuple):
    """A choice, and how far into the text it looked."""

    chosen: int
    logp: float
    words: int
    reach: int  # the word after the last that could have shown another choice


class Guesser(Reader):
    """Reads a text with a hole along one path of choices, and notes the turnings it did not take.

    What is `known` are the choices of the text without a hole: those that look no further than the hole are the same.
    """

    def __init__(self, tokens: Tokens, hole: int, known: Sequence[Step] = (), path: Sequence[int] = ()) -> None:
        super().__init__(tokens)
        self.hole, self.known, self.path = hole, known, list(path)
        self.turnings: list[list[int]] = []
        self.steps: list[Step] = []
        self.logp = 0.0
        self._turned = 0

    def choose(self, table: Table, taken: Container[str] = ()) -> int:
        if (step := self.next_known()) is None:
            reach = self.at + max(table.lengths, default=1)
            chosen = self.turn(table, taken) if self.at <= self.hole < reach else self.match(table)
            if chosen is None or (taken and table.phrases[chosen] in taken):
                raise self.unreadable()
            step = Step(chosen, table.logp_of(chosen, taken), len(table.tokens[chosen]), reach)
            self.fill(table.tokens[chosen])
        return self.take(step)

    def pick(self, phrases: Sequence[str], weights: Sequence[float], mechanisms: Sequence[str]) -> int:
        step = self.next_known()
        return super().pick(phrases, weights, mechanisms) if step is None else self.take(step)

    def next_known(self) -> Step | None:
        """The choice that comes next, if the hole does not matter to it."""
        number = len(self.steps)
        return self.known[number] if number < len(self.known) and self.known[number].reach <= self.hole else None

    def take(self, step: Step) -> int:
        """Go on after a choice."""
        self.steps.append(step)
        self.logp += step.logp
        self.at += step.words
        return step.chosen

    def turn(self, table: Table, taken: Container[str]) -> int:
        """At the hole: as the path has it; behind its end the first option that fits, and the others for later."""
        if self._turned == len(self.path):
            fitting = [i for i, phrase in enumerate(table.phrases) if phrase not in taken and self.can_follow(table, i)]
            if not fitting:
                raise self.unreadable()
            self.turnings += [[*self.path, other] for other in fitting[1:]]
            self.path.append(fitting[0])
        self._turned += 1
        return self.path[self._turned - 1]

    def can_follow(self, table: Table, option: int) -> bool:
        """Whether an option fits the text here; a silent one may, unless the next word is known and denies it."""
        words = table.tokens[option]
        if words:
            return fits(words, self.tokens[self.at : self.at + len(words)])
        leads = dict(table.silent)[option]
        return self.at == self.hole or leads is None or self.tokens[self.at] in leads

    def say(self, phrase: str, mechanism: str = "rest") -> None:
        words = cached_tokens(phrase)
        if not fits(words, self.tokens[self.at : self.at + len(words)]):
            raise self.unreadable()
        self.fill(words)
        self.at += len(words)

    def fill(self, words: Tokens) -> None:
        """Put into the hole what is spoken over it."""
        if self.at <= self.hole < self.at + len(words):
            self.tokens = (*self.tokens[: self.at], *words, *self.tokens[self.at + len(words) :])


class Oracle:
    """What can be said of the words of one document."""

    def __init__(self, world: World, text: str) -> None:
        self.world, self.tokens = world, (*tokens_of(text), END)
        guesser = Guesser(self.tokens, len(self.tokens))
        world.tell(guesser)
        self.known = guesser.steps

    def posterior(self, position: int) -> dict[str, float]:
        """The probability of every word that can stand at `position`, counted by `tokens_of`."""
        holed = (*self.tokens[:position], HOLE, *self.tokens[position + 1 :])
        logps: dict[str, float] = {}
        paths: list[list[int]] = [[]]
        while paths:
            guesser = Guesser(holed, position, self.known, paths.pop())
            try:
                self.world.tell(guesser)
            except NotInLanguage:
                pass
            else:
                if guesser.at == len(holed):
                    logps[guesser.tokens[position]] = guesser.logp
            paths += guesser.turnings
        highest = max(logps.values())
        total = math.fsum(math.exp(logp - highest) for logp in logps.values())
        return {word: math.exp(logp - highest) / total for word, logp in logps.items()}
