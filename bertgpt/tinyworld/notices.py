"""Grammar of notices: things lost, found or for sale, and jobs."""

from bertgpt.tinyworld.grammar import AGREEMENT, END, NAMES, POSSESSIONS, PRONOUNS, Table
from bertgpt.tinyworld.story_state import IT, IT_AS_OBJECT, OBJECT, SUBJECT, Derivation, Thing
from bertgpt.tinyworld.tables import COPULA, ONE, PAST, PRESENT, capitalize_phrase

BELONGS = (" belongs", " belong")
BRING = Table([END, " Anyone who finds"], [0.3, 0.7])
REWARD = Table([END, " The reward is"], [0.5, 0.5])
CLAIM = Table([END, " Whoever lost"], [0.35, 0.65])
ASK = Table([END, " Ask before"], [0.35, 0.65])
THERE = Table([END, " Come to the back door"], [0.5, 0.5])


NOTICES = ("Lost", "Found", "For sale", "Wanted")  # the first words


class Notice(Derivation):
    """The grammar of a notice. The advertiser, with a title and surname, is its only person."""

    genre = "notice"
    name: str  # of the advertiser
    gender: str

    def derive(self, opening: str) -> None:
        """The notice after its first words."""
        self.location()
        self.emit(":")
        if opening == "Wanted":
            self.job_notice()
        else:
            thing = self.new_thing()
            self.emit(".")
            {"Lost": self.lost_notice, "Found": self.found_notice, "For sale": self.sale_notice}[opening](thing)

    def lost_notice(self, thing: Thing) -> None:
        """The lantern belongs to Mrs Pike, the baker. She lost it on Friday. Anyone who finds it is asked ..."""
        self.belongs_to_advertiser(thing)
        self.emit(capitalize_phrase(SUBJECT[self.gender]), PRONOUNS)
        self.emit(" lost")
        self.emit(IT_AS_OBJECT[thing.number], PRONOUNS)
        self.emit(" on")
        self.select(self.tables.weekdays)
        self.emit(".")
        if self.select_phrase(BRING) != END:
            self.emit(IT_AS_OBJECT[thing.number], PRONOUNS)
            self.emit(" is asked to bring")
            self.emit(IT_AS_OBJECT[thing.number], PRONOUNS)
            self.emit(" to")
            self.advertiser_again()
            self.emit(" before")
            self.select(self.tables.hours)
            self.emit(".")
            if self.select_phrase(REWARD) != END:
                self.select(self.tables.rewards)
                self.emit(".")
                self.emit(END)

    def found_notice(self, thing: Thing) -> None:
        """The oars were found by Mr Rook, the ferryman. He keeps them in the cabin. Whoever lost them ..."""
        self.emit(" The")
        self.emit(thing.noun, POSSESSIONS)
        self.emit(COPULA[PAST][thing.number], AGREEMENT)
        self.emit(" found by")
        self.advertiser()
        self.emit(capitalize_phrase(SUBJECT[self.gender]), PRONOUNS)
        self.emit(" keeps")
        self.emit(IT_AS_OBJECT[thing.number], PRONOUNS)
        self.select(self.domain.spots)
        self.emit(".")
        if self.select_phrase(CLAIM) != END:
            self.emit(IT_AS_OBJECT[thing.number], PRONOUNS)
            self.emit(" should ask for")
            self.advertiser_again()
            self.emit(" before")
            self.select(self.tables.hours)
            self.emit(".")
            self.emit(END)

    def sale_notice(self, thing: Thing) -> None:
        """The scarf belongs to Miss Hale, the weaver. It is useful but a little dear. Ask before noon."""
        self.belongs_to_advertiser(thing)
        self.emit(capitalize_phrase(IT[thing.number]), PRONOUNS)
        self.emit(COPULA[PRESENT][thing.number], AGREEMENT)
        self.select(self.tables.faults)
        self.emit(", and the price")
        self.emit(COPULA[PRESENT][ONE], AGREEMENT)
        self.select(self.tables.rewards)
        self.emit(".")
        if self.select_phrase(ASK) != END:
            self.select(self.tables.hours)
            self.emit(".")
            self.emit(END)

    def job_notice(self) -> None:
        """Wanted at the bakery of Tarn: one milkman. The milkman must be honest and able to ..."""
        jobs = self.domain.jobs
        self.emit(" one")
        job = self.select_phrase(jobs)
        self.emit(". The")
        self.emit(job, POSSESSIONS)
        self.emit(" must be")
        self.select(self.tables.traits)
        self.emit(" and able to")
        self.select(self.domain.duties)
        self.emit(". Write to")
        self.advertiser(job)
        if self.select_phrase(THERE) != END:
            self.select(self.tables.endings[0])
            self.emit(END)

    def belongs_to_advertiser(self, thing: Thing) -> None:
        self.emit(" The")
        self.emit(thing.noun, POSSESSIONS)
        self.emit(BELONGS[thing.number], AGREEMENT)
        self.emit(" to")
        self.advertiser()

    def advertiser(self, other_than: str = "") -> None:
        """... Mrs Pike, the baker."""
        titles, surnames = self.tables.titles, self.tables.surnames
        title = self.select_phrase(titles)
        self.name = title + self.select_phrase(surnames)
        self.gender = "m" if title == " Mr" else "f"
        self.emit(", the")
        self.select(self.domain.jobs, [other_than] if other_than else [])
        self.emit(".")

    def advertiser_again(self) -> None:
        self.select_from([self.name, OBJECT[self.gender]], [0.6, 0.4], [NAMES, PRONOUNS])
