"""Compiles the lexicon into probability tables, in full or for a small version of the corpus.

`WorldTables(limit=1, domains=1)` keeps the first entry of every list and one domain: so small that all documents can be
enumerated. The tests use it to verify that probabilities sum to 1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Generic, TypeVar

from bertgpt.tinyworld import lexicon as lex
from bertgpt.tinyworld.grammar import AGREEMENT, END, NAMES, REST, Table

PAST, PRESENT = 0, 1
ONE, MANY = 0, 1  # grammatical number
GOOD, BAD = 0, 1  # mood of a document, once a sentiment word has settled it
MOODS = {None: None, GOOD: "good", BAD: "bad"}
COPULA = ((" was", " were"), (" is", " are"))  # by tense and number
HAVE = ((" had", " had"), (" has", " have"))
SEEM = ((" seemed", " seemed"), (" seems", " seem"))
MAX_CAST = 3  # people in a story; `limit` leaves at least as many names
FEWEST_NOUNS = 2  # of each kind whatever the `limit`, so that a short story does not run out of things
VOWELS = tuple("aeiou")

Kind = TypeVar("Kind")


class Verb(IntEnum):
    """Kinds of predicates. TAKE needs free hands; PUT, HANDLE and GIVE need something in them."""

    TAKE, PUT, HANDLE, GIVE, MEET, MOVE, WORK, BE = range(8)


class Sentence(IntEnum):
    """Kinds of sentences in a story. EVEN needs a known thing; FINISH ends the story."""

    ACT, OPENED, SCENERY, DAY, EVERYONE, NOBODY, SPEECH, EVEN, FINISH = range(9)


VERB_WEIGHTS = {
    Verb.TAKE: 0.24,
    Verb.PUT: 0.13,
    Verb.HANDLE: 0.17,
    Verb.GIVE: 0.11,
    Verb.MEET: 0.10,
    Verb.MOVE: 0.09,
    Verb.WORK: 0.13,
    Verb.BE: 0.14,
}
SENTENCE_WEIGHTS = {
    Sentence.ACT: 0.46,
    Sentence.OPENED: 0.13,
    Sentence.SCENERY: 0.13,
    Sentence.DAY: 0.04,
    Sentence.EVERYONE: 0.025,
    Sentence.NOBODY: 0.025,
    Sentence.SPEECH: 0.06,
    Sentence.EVEN: 0.05,
    Sentence.FINISH: 0.12,
}


def zipf(n: int) -> list[float]:
    """Zipf-Mandelbrot weights for a list ordered from frequent to rare."""
    return [1.0 / (rank + 4) for rank in range(n)]


def spaced(entries: Iterable[str]) -> list[str]:
    """The entries with a space before them, as inside a sentence."""
    return [" " + entry for entry in entries]


def capitalize_phrase(phrase: str) -> str:
    """A phrase as at the start of a sentence."""
    return phrase[:1] + phrase[1].upper() + phrase[2:]


def mixture(*parts: tuple[Sequence[str], float]) -> tuple[list[str], list[float]]:
    """A mixture of lists, each with its share of the probability."""
    phrases: list[str] = []
    weights: list[float] = []
    for entries, share in parts:
        unnormalized = zipf(len(entries))
        phrases += spaced(entries)
        weights += [share * w / sum(unnormalized) for w in unnormalized]
    return phrases, weights


def conjugate(entry: str, tense: int, number: int) -> str:
    """Inflect a verb for tense and number. An entry is past/singular/plural, then its object after a colon."""
    verb, colon, object_ = entry.partition(":")
    past, singular, plural = verb.split("/")
    return (past if tense == PAST else (singular, plural)[number]) + (object_ if colon else "")


@dataclass(frozen=True)
class TypedTable(Generic[Kind]):
    """A table, and the kind of predicate or sentence that each of its phrases starts."""

    table: Table
    kinds: list[Kind]


class WorldTables:
    """All tables of the grammar."""

    def __init__(self, limit: int | None = None, domains: int = 4) -> None:
        self.limit = limit
        self.towns = self.table(lex.TOWNS)
        self.weather = self.table(lex.WEATHER)
        self.dayparts = self.table(lex.DAYPARTS)
        self.skies = self.table(lex.SKIES)
        self.weekdays = self.table(lex.WEEKDAYS)
        self.hours = self.table(lex.HOURS)
        self.standing = self.table(lex.STANDING)
        self.done = self.table(lex.DONE)
        self.faults = self.table(lex.FAULTS)
        self.rewards = self.table(lex.REWARDS)
        self.openers = self.table(lex.OPENERS)
        self.whereabouts = self.table(lex.WHEREABOUTS)
        self.endings = self.clause_endings((lex.TAILS, 0.25), links={})
        self.moments = self.clause_endings((lex.MOMENTS, 0.15), links={})
        self.reasons = self.clause_endings((lex.TAILS, 0.1), links={" because": 0.3})
        self.luggage = self.clause_endings((lex.MOMENTS, 0.1), links={" with": 0.5})[0]
        self.traits = self.table(lex.TRAITS)
        self.intensifiers = self.optional(0.75, lex.INTENSIFIERS)
        self.sentences = cache(self._sentences)
        self._people()
        plain, vowel = self.truncate(lex.ADJECTIVES), self.truncate(lex.VOWEL_ADJECTIVES)
        self.adjectives = [self.optional(0.45, entries) for entries in (plain, vowel, plain + vowel)]  # by article
        self.feelings = self.sentiment_tables(lex.GLAD, lex.SORRY)
        self.looks = self.sentiment_tables(lex.FINE, lex.POOR)
        self.looks_after = [  # after "a", and after "an"
            self.sentiment_tables(
                *([e for e in entries if e.startswith(VOWELS) is vowel] for entries in (lex.FINE, lex.POOR))
            )
            for vowel in (False, True)
        ]
        self.said = self.verbs(lex.SAY)
        self.arrive = self.verbs(lex.ARRIVE)

        self.domains = [DomainTables(domain, self) for domain in lex.DOMAINS[:domains]]
        places = [
            (place, i) for i, domain in enumerate(lex.DOMAINS[:domains]) for place in self.truncate(domain.places)
        ]
        self.places = Table(
            spaced(place for place, _ in places), [w for domain in self.domains for w in zipf(domain.n_places)]
        )
        self.domain_of_place = [i for _, i in places]

    def _people(self) -> None:
        women, men = self.truncate(lex.WOMEN, MAX_CAST), self.truncate(lex.MEN, MAX_CAST)
        self.people = {
            "f": Table(spaced(women), zipf(len(women)), NAMES),
            "m": Table(spaced(men), zipf(len(men)), NAMES),
            "any": Table(spaced(women + men), zipf(len(women)) + zipf(len(men)), NAMES),
        }
        self.gender = "f" * len(women) + "m" * len(men)
        groups, weights = mixture((self.truncate(lex.GROUPS), 0.2))
        names = ["", *map(capitalize_phrase, groups)]  # the empty option: a person follows, by name
        self.groups = Table(names, [0.8, *weights], NAMES)
        self.titles = Table([" Mrs", " Mr", " Miss"], [0.35, 0.4, 0.25])
        self.surnames = Table(spaced(self.truncate(lex.SURNAMES)), zipf(len(self.truncate(lex.SURNAMES))), NAMES)
        hers, his = self.truncate(lex.WOMEN_RELATIONS), self.truncate(lex.MEN_RELATIONS)
        self.relations = Table(spaced(hers + his), zipf(len(hers)) + zipf(len(his)))
        self.relation_gender = "f" * len(hers) + "m" * len(his)

    def _sentences(self, may_finish: bool, things: bool) -> TypedTable[Sentence]:
        """The kinds of the next sentence. All but the end are empty options, recognised by their first words."""
        lookahead = {
            Sentence.ACT: None,
            Sentence.OPENED: frozenset(self.openers.first_words),
            Sentence.SCENERY: frozenset(self.whereabouts.first_words),
            Sentence.DAY: frozenset({"It"}),
            Sentence.EVERYONE: frozenset({"Everyone"}),
            Sentence.NOBODY: frozenset({"Nobody"}),
            Sentence.SPEECH: frozenset({'"'}),
            Sentence.EVEN: frozenset({"Even"}),
            Sentence.FINISH: None,
        }
        excluded = {Sentence.EVEN: not things, Sentence.FINISH: not may_finish}
        kinds = [kind for kind in sorted(lookahead, key=lambda kind: lookahead[kind] is None) if not excluded.get(kind)]
        return TypedTable(
            Table(
                [END if kind == Sentence.FINISH else "" for kind in kinds],
                [SENTENCE_WEIGHTS[kind] for kind in kinds],
                lookahead=[lookahead[kind] for kind in kinds],
            ),
            kinds,
        )

    def truncate(self, entries: Sequence[str], fewest: int = 1) -> list[str]:
        """The entries within the limit, at least `fewest`."""
        return list(entries if self.limit is None else entries[: max(self.limit, fewest)])

    def table(self, entries: Sequence[str], fewest: int = 1) -> Table:
        """A table of a list of the lexicon."""
        return Table(*mixture((self.truncate(entries, fewest), 1.0)))

    def optional(self, p_empty: float, entries: Sequence[str]) -> Table:
        """A table of a list with an empty option of probability `p_empty`."""
        phrases, weights = mixture((self.truncate(entries), 1.0 - p_empty))
        return Table(["", *phrases], [p_empty, *weights])

    def clause_endings(self, *parts: tuple[Sequence[str], float], links: dict[str, float]) -> tuple[Table, Table]:
        """Ends of a clause: a full stop, a phrase before it, or a conjunction from `links` that continues.

        The second table also has " and", which adds a second predicate for the same subject.
        """
        phrases, weights = mixture(*((self.truncate(part), share) for part, share in parts))
        phrases, weights = [*phrases, *links], [*weights, *links.values()]
        stop = 0.9 - sum(weights)
        return Table([*phrases, "."], [*weights, stop + 0.1]), Table([*phrases, ".", " and"], [*weights, stop, 0.1])

    def verbs(self, entries: Sequence[str]) -> list[list[Table]]:
        """Tables of verbs, by tense and number."""
        return [
            [self.table([conjugate(entry, tense, number) for entry in entries]) for number in (ONE, MANY)]
            for tense in (PAST, PRESENT)
        ]

    def sentiment_tables(self, good: Sequence[str], bad: Sequence[str]) -> dict[int | None, Table]:
        """Sentiment words: a table for each mood, and under None one of both, good ones first."""
        both = mixture((self.truncate(good), 0.5), (self.truncate(bad), 0.5))
        return {GOOD: self.table(good), BAD: self.table(bad), None: Table(*both)}


class DomainTables:
    """The tables of one domain."""

    def __init__(self, domain: lex.Domain, words: WorldTables) -> None:
        self.name = domain.name
        self.n_places = len(words.truncate(domain.places))
        self.goals = words.table(domain.goals)
        self.spots = words.table(domain.spots)
        self.jobs = words.table(domain.jobs, fewest=2)
        self.conditions = words.table(domain.conditions)
        self.endings = words.clause_endings((domain.spots, 0.3), (lex.TAILS, 0.1), links={})
        pairs = [entry.split("/") for entry in words.truncate(domain.scenery, fewest=2)]
        self.scenery = Table(
            spaced(noun for pair in pairs for noun in pair), [w for w in zipf(len(pairs)) for _ in pairs[0]]
        )
        both = domain.singular, lex.SINGULAR
        after_a = [words.truncate([e for e in part if not e.startswith(VOWELS)], FEWEST_NOUNS) for part in both]
        after_an = [words.truncate([e for e in part if e.startswith(VOWELS)], FEWEST_NOUNS) for part in both]
        plural = [words.truncate(part, FEWEST_NOUNS) for part in (domain.plural, lex.PLURAL)]
        # nouns directly after an article, and after an article with an adjective
        self.nouns = [noun_table(*after_a), noun_table(*after_an), noun_table(*plural)]
        singular = noun_table(*(a + an for a, an in zip(after_a, after_an, strict=True)))
        self.described = [singular, singular, self.nouns[2]]
        self.predicates = cache(self._predicates)
        self._verbs = {
            Verb.TAKE: lex.TAKE,
            Verb.PUT: lex.PUT,
            Verb.HANDLE: lex.HANDLE,
            Verb.GIVE: lex.GIVE,
            Verb.MEET: lex.MEET,
            Verb.MOVE: lex.MOVE,
            Verb.WORK: domain.work,
        }
        self.duties = words.table([conjugate(entry, PRESENT, MANY) for entry in domain.work])
        self._truncate = words.truncate

    def _predicates(self, tense: int, number: int, room: bool, holding: bool, company: bool) -> TypedTable[Verb]:
        """The verbs of a subject: `room` for more things, `holding` some, in `company` of others."""
        excluded = {
            Verb.TAKE: not room,
            Verb.PUT: not holding,
            Verb.HANDLE: not holding,
            Verb.GIVE: not (holding and company),
            Verb.MEET: not company,
        }
        phrases, weights, kinds = [COPULA[tense][number]], [VERB_WEIGHTS[Verb.BE]], [Verb.BE]
        for kind, entries in self._verbs.items():
            if not excluded.get(kind):
                verbs, verb_weights = mixture((self._truncate(entries), VERB_WEIGHTS[kind]))
                phrases += [" " + conjugate(verb.strip(), tense, number) for verb in verbs]
                weights += verb_weights
                kinds += [kind] * len(verbs)
        return TypedTable(Table(phrases, weights, [AGREEMENT] + [REST] * (len(phrases) - 1)), kinds)


def noun_table(own: Sequence[str], common: Sequence[str]) -> Table:
    """Things that can be held in a domain: its own, and those common to all domains."""
    return Table(*mixture((own, 0.65), (common, 0.35)))
