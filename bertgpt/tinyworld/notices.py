"""Notices: things lost, found and for sale, and people wanted."""

from bertgpt.tinyworld.grammar import AGREEMENT, END, NAMES, POSSESSIONS, PRONOUNS, Table
from bertgpt.tinyworld.story_state import IT, IT_AS_OBJECT, OBJECT, SUBJECT, Tale, Thing
from bertgpt.tinyworld.tables import COPULA, ONE, PAST, PRESENT, capital

BELONGS = (" belongs", " belong")
BRING = Table([END, " Anyone who finds"], [0.3, 0.7])
REWARD = Table([END, " The reward is"], [0.5, 0.5])
CLAIM = Table([END, " Whoever lost"], [0.35, 0.65])
ASK = Table([END, " Ask before"], [0.35, 0.65])
THERE = Table([END, " Come to the back door"], [0.5, 0.5])


NOTICES = ("Lost", "Found", "For sale", "Wanted")  # the first words


class Notice(Tale):
    """A notice being told. The advertiser, with a title and surname, is the only person in it."""

    genre = "notice"
    name: str  # of the advertiser
    gender: str

    def tell(self, opening: str) -> None:
        """The whole notice after its first words."""
        self.place()
        self.say(":")
        if opening == "Wanted":
            self.wanted()
        else:
            thing = self.something()
            self.say(".")
            {"Lost": self.lost, "Found": self.found, "For sale": self.for_sale}[opening](thing)

    def lost(self, thing: Thing) -> None:
        """The lantern belongs to Mrs Pike, the baker. She lost it on Friday. Anyone who finds it is asked ..."""
        self.belongs(thing)
        self.say(capital(SUBJECT[self.gender]), PRONOUNS)
        self.say(" lost")
        self.say(IT_AS_OBJECT[thing.number], PRONOUNS)
        self.say(" on")
        self.choose(self.words.weekdays)
        self.say(".")
        if self.phrase(BRING) != END:
            self.say(IT_AS_OBJECT[thing.number], PRONOUNS)
            self.say(" is asked to bring")
            self.say(IT_AS_OBJECT[thing.number], PRONOUNS)
            self.say(" to")
            self.advertiser_again()
            self.say(" before")
            self.choose(self.words.hours)
            self.say(".")
            if self.phrase(REWARD) != END:
                self.choose(self.words.rewards)
                self.say(".")
                self.say(END)

    def found(self, thing: Thing) -> None:
        """The oars were found by Mr Rook, the ferryman. He keeps them in the cabin. Whoever lost them ..."""
        self.say(" The")
        self.say(thing.noun, POSSESSIONS)
        self.say(COPULA[PAST][thing.number], AGREEMENT)
        self.say(" found by")
        self.advertiser()
        self.say(capital(SUBJECT[self.gender]), PRONOUNS)
        self.say(" keeps")
        self.say(IT_AS_OBJECT[thing.number], PRONOUNS)
        self.choose(self.domain.spots)
        self.say(".")
        if self.phrase(CLAIM) != END:
            self.say(IT_AS_OBJECT[thing.number], PRONOUNS)
            self.say(" should ask for")
            self.advertiser_again()
            self.say(" before")
            self.choose(self.words.hours)
            self.say(".")
            self.say(END)

    def for_sale(self, thing: Thing) -> None:
        """The scarf belongs to Miss Hale, the weaver. It is useful but a little dear. Ask before noon."""
        self.belongs(thing)
        self.say(capital(IT[thing.number]), PRONOUNS)
        self.say(COPULA[PRESENT][thing.number], AGREEMENT)
        self.choose(self.words.faults)
        self.say(", and the price")
        self.say(COPULA[PRESENT][ONE], AGREEMENT)
        self.choose(self.words.rewards)
        self.say(".")
        if self.phrase(ASK) != END:
            self.choose(self.words.hours)
            self.say(".")
            self.say(END)

    def wanted(self) -> None:
        """Wanted at the bakery of Tarn: one milkman. The milkman must be honest and able to ..."""
        jobs = self.domain.jobs
        self.say(" one")
        job = self.phrase(jobs)
        self.say(". The")
        self.say(job, POSSESSIONS)
        self.say(" must be")
        self.choose(self.words.traits)
        self.say(" and able to")
        self.choose(self.domain.duties)
        self.say(". Write to")
        self.advertiser(job)
        if self.phrase(THERE) != END:
            self.choose(self.words.endings[0])
            self.say(END)

    def belongs(self, thing: Thing) -> None:
        self.say(" The")
        self.say(thing.noun, POSSESSIONS)
        self.say(BELONGS[thing.number], AGREEMENT)
        self.say(" to")
        self.advertiser()

    def advertiser(self, other_than: str = "") -> None:
        """... Mrs Pike, the baker."""
        titles, surnames = self.words.titles, self.words.surnames
        title = self.phrase(titles)
        self.name = title + self.phrase(surnames)
        self.gender = "m" if title == " Mr" else "f"
        self.say(", the")
        self.choose(self.domain.jobs, [other_than] if other_than else [])
        self.say(".")

    def advertiser_again(self) -> None:
        self.pick([self.name, OBJECT[self.gender]], [0.6, 0.4], [NAMES, PRONOUNS])
