"""Grammar of stories: people arrive, find things, pass them on and put them down, and say what they think of the day.

Docstrings of the rules are examples of what they generate.
"""

from functools import cache

from bertgpt.tinyworld.grammar import AGREEMENT, END, NAMES, PRONOUNS, REST, Table
from bertgpt.tinyworld.story_state import IT, OBJECT, POSSESSIVE, SUBJECT, Derivation, Person, Thing
from bertgpt.tinyworld.tables import (
    COPULA,
    HAVE,
    MANY,
    MAX_CAST,
    ONE,
    PAST,
    PRESENT,
    SEEM,
    Sentence,
    Verb,
    capitalize_phrase,
)

MAX_HANDS, MAX_THINGS = 2, 6  # things that a person can hold, and things in a story

TENSES = Table([COPULA[PAST][ONE], COPULA[PRESENT][ONE]], [0.65, 0.35], AGREEMENT)
OPENING_ENDS = Table([".", " on"], [0.6, 0.4])
INTRODUCTIONS = Table([", the", " and", ""], [0.45, 0.25, 0.3])
COMPANY = Table([".", " with"], [0.5, 0.5])
MODIFIERS = Table(
    ["", " near the", " behind the", " under the", " beside the", " that"], [0.15, 0.2, 0.15, 0.1, 0.15, 0.25]
)
VERDICTS = Table([" a", " an", " not a", " not an"], [0.55, 0.15, 0.22, 0.08])
DAY_ENDS = Table([".", " for everyone.", " after all.", " to remember."], [0.5, 0.2, 0.15, 0.15])
LOOK, THANKS, HOW = ' "Look at the', ' "Thank you,', ' "How'


@cache
def speech_openings(things: bool, company: bool) -> Table:
    """Starts of direct speech, given whether there are things to look at and people to thank."""
    weights = {HOW: 0.3} | ({LOOK: 0.4} if things else {}) | ({THANKS: 0.3} if company else {})
    return Table(list(weights), list(weights.values()))


class Story(Derivation):
    """The grammar of a story."""

    genre = "story"
    focus: Person | None = None  # antecedent of a pronoun at the start of a sentence
    daypart: str | None = None

    def derive(self, opening: str, lengths: tuple[int, int]) -> None:
        """The story after its first word; `lengths` bounds the number of sentences."""
        self.tense = self.select(TENSES)
        if opening == "It":  # It was a foggy morning at the old harbour of Penwick.
            self.emit(" a")
            self.select(self.tables.weather)
            self.time_of_day()
        else:  # There is snow in the market square of Tarn on Friday.
            self.select(self.tables.skies)
        self.location()
        if self.select_phrase(OPENING_ENDS) == " on":
            self.select(self.tables.weekdays)
            self.emit(".")
        self.introduction()
        fewest, most = lengths
        for self.sentence in range(2, most):
            options = self.tables.sentences(self.sentence >= fewest, bool(self.things))
            kind = options.kinds[self.select(options.table)]
            if kind == Sentence.FINISH:
                return
            SENTENCES[kind](self)
        self.emit(END)

    def introduction(self) -> None:
        """Agnes, the lighthouse keeper, was there early with her brother, Tom."""
        group = self.select_phrase(self.tables.groups)
        if group:
            self.cast.append(Person(group, "many"))
            form, number = "", MANY
        else:
            self.new_person()
            form, number = self.select_phrase(INTRODUCTIONS), ONE
        if form == ", the":
            self.select(self.domain.jobs)
            self.emit(",")
        elif form == " and":
            self.new_person()
            number = MANY
        self.emit(COPULA[self.tense][number], AGREEMENT)
        self.select(self.tables.standing)
        if form == " and":
            self.emit(".")
            return
        self.focus = person = self.cast[0]
        if self.select_phrase(COMPANY) == " with":
            self.emit(POSSESSIVE[person.gender], PRONOUNS)
            relation = self.select(self.tables.relations)
            self.emit(",")
            self.new_person(self.tables.relation_gender[relation])
            self.emit(".")

    # ------------------------------------------------------------------------------------- actions

    def act(self) -> None:
        """She picked up a brass key and hurried to the lighthouse door."""
        self.action(after_opener=False)

    def act_with_opener(self) -> None:
        """A little later the twins handed the brass key to Tom."""
        self.select(self.tables.openers)
        self.action(after_opener=True)

    def action(self, after_opener: bool) -> None:
        """A subject, possibly a new person, and its predicate."""
        people = [person for person in self.cast if person is not self.focus]
        phrases = [person.inline_name if after_opener else person.name for person in people]
        weights = [0.32 / len(people) for _ in people]
        categories = [NAMES for _ in people]
        if self.focus is not None:
            pronoun = SUBJECT[self.focus.gender]
            people += [self.focus, self.focus]
            phrases += [
                pronoun if after_opener else capitalize_phrase(pronoun),
                self.focus.inline_name if after_opener else self.focus.name,
            ]
            weights += [0.5, 0.08]
            categories += [PRONOUNS, NAMES]
        if len(self.cast) < MAX_CAST:  # the empty option: a new name follows
            phrases, weights, categories = [*phrases, ""], [*weights, 0.1], [*categories, REST]
        chosen = self.select_from(phrases, weights, categories)
        if chosen == len(people):
            self.arrive()
        else:
            self.focus = people[chosen]
            self.predicate(self.focus, may_continue=True)

    def arrive(self) -> None:
        """Tom, the ferryman, arrived with some oars."""
        self.focus = person = self.new_person()
        self.emit(", the")
        self.select(self.domain.jobs)
        self.emit(",")
        self.select(self.tables.arrive[self.tense][ONE])
        if self.end_clause(self.tables.luggage) == " with":
            person.holds.append(self.new_thing())
            self.emit(".")

    def predicate(self, person: Person, may_continue: bool) -> None:
        """The predicate of a subject, to the end of the sentence."""
        room = len(person.holds) < MAX_HANDS and len(self.things) < MAX_THINGS
        holding = bool(person.holds)
        options = self.domain.predicates(self.tense, person.number, room, holding, len(self.cast) > 1)
        kind = options.kinds[self.select(options.table)]
        if kind == Verb.HANDLE:
            self.handle(person, may_continue)
            return
        endings = self.tables.endings
        if kind == Verb.TAKE:
            person.holds.append(self.new_thing())
            endings = self.domain.endings
        elif kind == Verb.PUT:
            self.hand_over(person)
            self.select(self.domain.spots)
        elif kind == Verb.GIVE:
            thing = self.hand_over(person)
            self.emit(" to")
            self.someone_else(person).holds.append(thing)
        elif kind == Verb.MEET:
            self.someone_else(person)
        elif kind == Verb.MOVE:
            self.select(self.domain.goals)
        elif kind == Verb.BE:
            self.feeling()
            endings = self.tables.moments
        self.end_or_continue(person, endings[may_continue])

    def handle(self, person: Person, may_continue: bool) -> None:
        """... looked at the boots because they were wet."""
        self.emit(" the")
        thing = self.known_thing(person.holds)
        if self.end_or_continue(person, self.tables.reasons[may_continue]) == " because":
            self.emit(IT[thing.number], PRONOUNS)
            self.emit(COPULA[self.tense][thing.number], AGREEMENT)
            self.select(self.tables.faults)
            self.emit(".")

    def hand_over(self, person: Person) -> Thing:
        self.emit(" the")
        thing = self.known_thing(person.holds)
        person.holds.remove(thing)
        return thing

    def someone_else(self, person: Person) -> Person:
        """Another of the cast, by name; if there is only one, also by pronoun."""
        others = [other for other in self.cast if other is not person]
        if len(others) > 1:
            return self.known_person(others)
        self.select_from([others[0].inline_name, OBJECT[others[0].gender]], [0.6, 0.4], [NAMES, PRONOUNS])
        return others[0]

    def end_or_continue(self, person: Person, table: Table) -> str:
        """End the clause, or add a second predicate to the same subject."""
        link = self.end_clause(table)
        if link == " and":
            self.predicate(person, may_continue=False)
        return link

    def end_clause(self, table: Table) -> str:
        """End the clause; returns "." or the conjunction that continues it."""
        ending = self.select_phrase(table)
        if ending in (" and", " because", " with"):
            return ending
        if ending != ".":
            self.emit(".")
        return "."

    # --------------------------------------------------------------------------------- descriptions

    def scenery(self) -> None:
        """Outside, the ropes near the boat were wet. The verb may agree with a distant noun."""
        self.select(self.tables.whereabouts)
        self.emit(", the")
        table = self.domain.scenery
        head = self.select(table)
        number = head % 2  # the table goes singular, plural, singular, ...
        modifier = self.select_phrase(MODIFIERS)
        if modifier == " that":
            owner = self.known_person(self.cast)
            self.emit(HAVE[self.tense][owner.number], AGREEMENT)
            self.select(self.tables.done)
        elif modifier:
            self.select(table, [table.phrases[head - number], table.phrases[head - number + 1]])  # another thing
        self.select_from([COPULA[self.tense][number], SEEM[self.tense][number]], [0.75, 0.25], [AGREEMENT, AGREEMENT])
        self.select(self.domain.conditions)
        self.emit(".")

    def even(self) -> None:
        """Even the lantern was wet."""
        self.emit(" Even the")
        thing = self.known_thing(self.things)
        self.emit(COPULA[self.tense][thing.number], AGREEMENT)
        self.select(self.tables.faults)
        self.emit(".")

    # -------------------------------------------------------------------------------- sentiment

    def feeling(self) -> None:
        """... was rather proud"""
        self.select(self.tables.intensifiers)
        self.sentiment_word(self.tables.feelings)

    def day(self) -> None:
        """It was not a dull morning after all."""
        self.emit(" It")
        self.emit(COPULA[self.tense][ONE], AGREEMENT)
        article = self.select_phrase(VERDICTS)
        self.sentiment_word(self.tables.looks_after[article.endswith("an")], negated=article.startswith(" not"))
        self.time_of_day()
        self.select(DAY_ENDS)

    def time_of_day(self) -> None:
        """... morning: the same one for the whole story."""
        if self.daypart is None:
            self.daypart = self.select_phrase(self.tables.dayparts)
        else:
            self.emit(self.daypart)

    def everyone(self) -> None:
        """Everyone was very pleased."""
        self.emit(" Everyone")
        self.emit(COPULA[self.tense][ONE], AGREEMENT)
        self.feeling()
        self.emit(".")

    def nobody(self) -> None:
        """Nobody was bored."""
        self.emit(" Nobody")
        self.emit(COPULA[self.tense][ONE], AGREEMENT)
        self.sentiment_word(self.tables.feelings, negated=True)
        self.emit(".")

    def speech(self) -> None:
        """ "Thank you, Tom," Agnes said."""
        thankable = [person for person in self.cast if person.number == ONE and len(self.cast) > 1]
        line = self.select_phrase(speech_openings(bool(self.things), bool(thankable)))
        speakers = self.cast
        if line == LOOK:
            self.known_thing(self.things)
        elif line == THANKS:
            thanked = self.known_person(thankable)
            speakers = [person for person in self.cast if person is not thanked]
        else:
            self.sentiment_word(self.tables.looks)
        self.emit('!"' if line == HOW else ',"')
        self.focus = self.known_person(speakers)
        self.select(self.tables.said[self.tense][self.focus.number])
        self.emit(".")


SENTENCES = {
    Sentence.ACT: Story.act,
    Sentence.OPENED: Story.act_with_opener,
    Sentence.SCENERY: Story.scenery,
    Sentence.EVEN: Story.even,
    Sentence.DAY: Story.day,
    Sentence.EVERYONE: Story.everyone,
    Sentence.NOBODY: Story.nobody,
    Sentence.SPEECH: Story.speech,
}
