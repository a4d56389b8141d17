"""Parts of the world so small that all of their documents can be listed."""

from collections.abc import Callable, Container, Iterator, Sequence

import pytest

from bertgpt.tinyworld.grammar import END, NotInLanguage, Reader, Table, tokens_of
from bertgpt.tinyworld.tables import Words
from bertgpt.tinyworld.world import World


class Lister:
    """A teller that follows a path of choices, and knows at each how many others there were."""

    def __init__(self, path: list[int]) -> None:
        self.path, self.open, self.pieces = path, [], []

    def choose(self, table: Table, taken: Container[str] = ()) -> int:
        options = [i for i, phrase in enumerate(table.phrases) if phrase not in taken]
        if len(self.open) == len(self.path):
            self.path.append(0)
        chosen = options[self.path[len(self.open)]]
        self.open.append(len(options))
        self.pieces.append(table.phrases[chosen])
        return chosen

    def pick(self, phrases: Sequence[str], weights: Sequence[float], mechanisms: Sequence[str]) -> int:
        return self.choose(Table(phrases, weights, mechanisms))

    def say(self, phrase: str, mechanism: str = "") -> None:
        self.pieces.append(phrase)


class Pathfinder(Reader):
    """Finds the path of choices behind the beginning of a document."""

    def __init__(self, beginning: str) -> None:
        super().__init__(tokens_of(beginning))
        self.path: list[int] = []

    def choose(self, table: Table, taken: Container[str] = ()) -> int:
        more_to_read = self.at < len(self.tokens)
        chosen = super().choose(table, taken)
        if more_to_read:
            self.path.append([i for i, phrase in enumerate(table.phrases) if phrase not in taken].index(chosen))
        return chosen


def every_text(world: World, beginning: str = "") -> Iterator[str]:
    """Every document of the world that begins so, once, in the order of its choices."""
    finder = Pathfinder(beginning)
    with pytest.raises(NotInLanguage):
        world.tell(finder)
    assert finder.at == len(finder.tokens), beginning
    path = finder.path
    while True:
        lister = Lister(list(path))
        world.tell(lister)
        yield "".join(lister.pieces).rstrip(END).lstrip(" ")
        path = lister.path
        while len(path) > len(finder.path) and path[-1] == lister.open[len(path) - 1] - 1:
            path.pop()
        if len(path) == len(finder.path):
            return
        path[-1] += 1


@pytest.fixture(scope="session")
def texts() -> Callable[..., Iterator[str]]:
    return every_text


@pytest.fixture(scope="session")
def small_world() -> Callable[[int], World]:
    """The first entries of every list, one domain, and stories of so many sentences."""
    words = Words(limit=1, domains=1)
    return lambda sentences: World(words=words, lengths=(sentences, sentences))


@pytest.fixture(scope="session")
def world() -> World:
    return World(seed=0)
