"""State of a derivation, and the rules that stories and notices share.

An interpreter makes or recovers every choice, so sampling, parsing and scoring are the same code and cannot disagree.
Two rules keep the grammar unambiguous: a choice is made only where its words are emitted, and whatever follows from
earlier choices is emitted without a choice.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from bertgpt.tinyworld.grammar import NAMES, POSSESSIONS, Interpreter, Table
from bertgpt.tinyworld.tables import BAD, GOOD, MANY, ONE, PRESENT, DomainTables, WorldTables

SUBJECT = {"f": " she", "m": " he", "many": " they"}
OBJECT = {"f": " her", "m": " him", "many": " them"}
POSSESSIVE = {"f": " her", "m": " his", "many": " their"}
IT, IT_AS_OBJECT = (" it", " they"), (" it", " them")  # pronouns of a thing, by number

ARTICLES = Table([" a", " an", " some"], [0.62, 0.12, 0.26])


@dataclass
class Thing:
    """Something that can be held. Verbs and pronouns agree with its number."""

    noun: str
    number: int


@dataclass
class Person:
    """A person, or a group that acts as one."""

    name: str  # as at the start of a sentence
    gender: str  # "f", "m" or "many"
    holds: list[Thing] = field(default_factory=list)

    @property
    def number(self) -> int:
        """Grammatical number of its verbs."""
        return MANY if self.gender == "many" else ONE

    @property
    def inline_name(self) -> str:
        """The name as inside a sentence."""
        return self.name.replace(" The ", " the ")


class Derivation:
    """A document being derived: what its earlier choices have settled."""

    def __init__(self, interpreter: Interpreter, tables: WorldTables) -> None:
        self.select, self.select_from, self.emit = interpreter.select, interpreter.select_from, interpreter.emit
        self.tables = tables
        self.domain: DomainTables
        self.tense = PRESENT
        self.mood: int | None = None
        self.sentiment_sentences: list[int] = []  # indices of sentences with sentiment words
        self.sentence = 0
        self.cast: list[Person] = []
        self.things: list[Thing] = []

    def select_phrase(self, table: Table, excluded: Container[str] = ()) -> str:
        """Choose from a table; returns the phrase."""
        return table.phrases[self.select(table, excluded)]

    def location(self) -> None:
        """The place; it settles the domain."""
        self.domain = self.tables.domains[self.tables.domain_of_place[self.select(self.tables.places)]]
        self.emit(" of")
        self.select(self.tables.towns)

    def new_person(self, gender: str = "any") -> Person:
        """Introduce a person, with a name that is new in the document."""
        table = self.tables.people[gender]
        chosen = self.select(table, [person.name for person in self.cast])
        person = Person(table.phrases[chosen], self.tables.gender[chosen] if gender == "any" else gender)
        self.cast.append(person)
        return person

    def new_thing(self) -> Thing:
        """Introduce a thing: "a brass lantern", "an oar", "some old nets"."""
        article = self.select(ARTICLES)
        described = self.select(self.tables.adjectives[article])
        table = (self.domain.described if described else self.domain.nouns)[article]
        noun = self.select_phrase(table, [thing.noun for thing in self.things])
        thing = Thing(noun, MANY if ARTICLES.phrases[article] == " some" else ONE)
        self.things.append(thing)
        return thing

    def known_thing(self, things: Sequence[Thing]) -> Thing:
        """One of the things that were introduced before."""
        return things[
            self.select_from([thing.noun for thing in things], [1.0] * len(things), [POSSESSIONS] * len(things))
        ]

    def known_person(self, people: Sequence[Person]) -> Person:
        """One of the people who were introduced before, by name."""
        return people[self.select_from([p.inline_name for p in people], [1.0] * len(people), [NAMES] * len(people))]

    def sentiment_word(self, tables: dict[int | None, Table], negated: bool = False) -> None:
        """A sentiment word. The first of a document settles its mood; the others agree with it."""
        if self.sentence not in self.sentiment_sentences:
            self.sentiment_sentences.append(self.sentence)
        polarity = self.mood if self.mood is None or not negated else GOOD + BAD - self.mood
        chosen = self.select(tables[polarity])
        if polarity is None:
            positive = chosen < len(tables[GOOD].phrases)
            self.mood = GOOD if positive is not negated else BAD
