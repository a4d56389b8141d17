"""The best that anyone can do at guessing a masked word, by Bayes' rule from the exact probabilities.

The posterior of a word is the probability of the document with that word, over the sum for all words. Only words with
which the text is still a document of the world count, and those are found by following every choice that fits around
the hole: the same sum as trying the whole vocabulary, in a small part of the time.
"""

import math
from collections.abc import Container

from bertgpt.corpora.tinyworld.telling import END, Reader, Table, Tokens, Unreadable, spoken, tokens_of
from bertgpt.corpora.tinyworld.world import World

HOLE = "_"  # stands for the masked word; no word of the world


def fits(words: Tokens, wanted: Tokens) -> bool:
    """Whether words can stand where `wanted` stands, a hole taking any word."""
    return len(words) == len(wanted) and all(w in (word, HOLE) for word, w in zip(words, wanted, strict=True))


class Guesser(Reader):
    """Reads a text with a hole along one path of choices, and notes the turnings it did not take."""

    def __init__(self, tokens: Tokens, path: list[int]) -> None:
        super().__init__(tokens)
        self.hole = tokens.index(HOLE)
        self.path = path
        self.turnings: list[list[int]] = []
        self._steps = 0

    def choose(self, table: Table, taken: Container[str] = ()) -> int:
        if not self.at <= self.hole < self.at + max(table.lengths, default=1):
            return super().choose(table, taken)
        if self._steps == len(self.path):
            fitting = [i for i, phrase in enumerate(table.phrases) if phrase not in taken and self.can_follow(table, i)]
            if not fitting:
                raise self.unreadable()
            self.turnings += [[*self.path, other] for other in fitting[1:]]
            self.path = [*self.path, fitting[0]]
        chosen = self.path[self._steps]
        self._steps += 1
        self.fill(table.tokens[chosen])
        self.tell(table.phrases[chosen], table.word_logps(chosen, taken), table.mechanisms[chosen], table.logp[chosen])
        return chosen

    def can_follow(self, table: Table, option: int) -> bool:
        """Whether an option fits the text here; a silent one may, unless the next word is known and denies it."""
        words = table.tokens[option]
        if words:
            return fits(words, self.tokens[self.at : self.at + len(words)])
        leads = dict(table.silent)[option]
        return self.at == self.hole or leads is None or self.tokens[self.at] in leads

    def say(self, phrase: str, mechanism: str = "rest") -> None:
        words = spoken(phrase)
        if fits(words, self.tokens[self.at : self.at + len(words)]):
            self.fill(words)
        super().say(phrase, mechanism)

    def fill(self, words: Tokens) -> None:
        """Put into the hole what is spoken over it."""
        if self.at <= self.hole < self.at + len(words):
            self.tokens = (*self.tokens[: self.at], *words, *self.tokens[self.at + len(words) :])


def posterior(world: World, text: str, position: int) -> dict[str, float]:
    """The probability of every word that can stand at `position` (counted by `tokens_of`) of a document."""
    tokens = tokens_of(text)
    holed = (*tokens[:position], HOLE, *tokens[position + 1 :], END)
    logps: dict[str, float] = {}
    paths: list[list[int]] = [[]]
    while paths:
        guesser = Guesser(holed, paths.pop())
        try:
            world.tell(guesser)
        except Unreadable:
            pass
        else:
            if guesser.at == len(holed):
                logps[guesser.tokens[position]] = sum(word.logp for word in guesser.words)
        paths += guesser.turnings
    highest = max(logps.values())
    total = math.fsum(math.exp(logp - highest) for logp in logps.values())
    return {word: math.exp(logp - highest) / total for word, logp in logps.items()}
