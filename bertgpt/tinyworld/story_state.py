"""What stories and notices share: who and what has been settled so far, and the phrases that settle more.

A document is worked through with a teller, which makes (or finds) every choice, so generation, parsing and scoring
are the same code and cannot disagree. Two rules keep the text a transcript of the choices: a choice is made only
where its words stand, and whatever follows from earlier choices is said.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from bertgpt.tinyworld.grammar import NAMES, POSSESSIONS, Interpreter, Table
from bertgpt.tinyworld.tables import BAD, GOOD, MANY, ONE, PRESENT, DomainTables, WorldTables

SUBJECT = {"f": " she", "m": " he", "many": " they"}
OBJECT = {"f": " her", "m": " him", "many": " them"}
POSSESSIVE = {"f": " her", "m": " his", "many": " their"}
IT, IT_AS_OBJECT = (" it", " they"), (" it", " them")  # a thing, by number

ARTICLES = Table([" a", " an", " some"], [0.62, 0.12, 0.26])


@dataclass
class Thing:
    """Something that can be held. Its number decides its verbs and pronouns."""

    noun: str
    number: int


@dataclass
class Person:
    """Someone, or several people who act as one."""

    name: str  # as it stands at the beginning of a sentence
    gender: str  # "f", "m" or "many"
    holds: list[Thing] = field(default_factory=list)

    @property
    def number(self) -> int:
        """How many the verb agrees with."""
        return MANY if self.gender == "many" else ONE

    @property
    def inline_name(self) -> str:
        """The name inside a sentence."""
        return self.name.replace(" The ", " the ")


class Derivation:
    """A document being told."""

    def __init__(self, teller: Interpreter, words: WorldTables) -> None:
        self.choose, self.choose_from, self.emit = teller.choose, teller.choose_from, teller.emit
        self.tables = words
        self.domain: DomainTables
        self.tense = PRESENT
        self.mood: int | None = None
        self.sentiment_sentences: list[int] = []  # the sentences, counted from 0, that say what to think of things
        self.sentence = 0
        self.cast: list[Person] = []
        self.things: list[Thing] = []

    def choose_phrase(self, table: Table, excluded: Container[str] = ()) -> str:
        """Choose, for the words themselves."""
        return table.phrases[self.choose(table, excluded)]

    def location(self) -> None:
        """Where it is; this settles the domain."""
        self.domain = self.tables.domains[self.tables.domain_of_place[self.choose(self.tables.places)]]
        self.emit(" of")
        self.choose(self.tables.towns)

    def new_person(self, gender: str = "any") -> Person:
        """Somebody with a name that nobody in the document has yet."""
        table = self.tables.people[gender]
        chosen = self.choose(table, [person.name for person in self.cast])
        person = Person(table.phrases[chosen], self.tables.gender[chosen] if gender == "any" else gender)
        self.cast.append(person)
        return person

    def new_thing(self) -> Thing:
        """A thing that was not there before: "a brass lantern", "an oar", "some old nets"."""
        article = self.choose(ARTICLES)
        described = self.choose(self.tables.adjectives[article])
        table = (self.domain.described if described else self.domain.nouns)[article]
        noun = self.choose_phrase(table, [thing.noun for thing in self.things])
        thing = Thing(noun, MANY if ARTICLES.phrases[article] == " some" else ONE)
        self.things.append(thing)
        return thing

    def known_thing(self, things: Sequence[Thing]) -> Thing:
        """One of the things that are known already."""
        return things[
            self.choose_from([thing.noun for thing in things], [1.0] * len(things), [POSSESSIONS] * len(things))
        ]

    def known_person(self, people: Sequence[Person]) -> Person:
        """One of the people who are known already, by name."""
        return people[self.choose_from([p.inline_name for p in people], [1.0] * len(people), [NAMES] * len(people))]

    def sentiment_word(self, tables: dict[int | None, Table], denied: bool = False) -> None:
        """A word that judges; the first one in a document settles its mood, which the others follow."""
        if self.sentence not in self.sentiment_sentences:
            self.sentiment_sentences.append(self.sentence)
        side = self.mood if self.mood is None or not denied else GOOD + BAD - self.mood
        chosen = self.choose(tables[side])
        if side is None:
            praised = chosen < len(tables[GOOD].phrases)
            self.mood = GOOD if praised is not denied else BAD
