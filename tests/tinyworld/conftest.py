"""Small versions of tinyworld, whose documents can all be enumerated."""

from collections.abc import Callable, Container, Iterator, Sequence

import pytest

from bertgpt.tinyworld.grammar import END, NotInLanguage, Parser, Table, tokens_of
from bertgpt.tinyworld.tables import WorldTables
from bertgpt.tinyworld.world import World


class PathFollower:
    """An interpreter that follows a path of choices, and records how many options each choice had."""

    def __init__(self, path: list[int]) -> None:
        self.path, self.num_options, self.pieces = path, [], []

    def select(self, table: Table, excluded: Container[str] = ()) -> int:
        options = [i for i, phrase in enumerate(table.phrases) if phrase not in excluded]
        if len(self.num_options) == len(self.path):
            self.path.append(0)
        chosen = options[self.path[len(self.num_options)]]
        self.num_options.append(len(options))
        self.pieces.append(table.phrases[chosen])
        return chosen

    def select_from(self, phrases: Sequence[str], weights: Sequence[float], categories: Sequence[str]) -> int:
        return self.select(Table(phrases, weights, categories))

    def emit(self, phrase: str, category: str = "") -> None:
        self.pieces.append(phrase)


class PathParser(Parser):
    """Finds the path of choices behind a prefix of a document."""

    def __init__(self, prefix: str) -> None:
        super().__init__(tokens_of(prefix))
        self.path: list[int] = []

    def select(self, table: Table, excluded: Container[str] = ()) -> int:
        more_tokens = self.position < len(self.tokens)
        chosen = super().select(table, excluded)
        if more_tokens:
            self.path.append([i for i, phrase in enumerate(table.phrases) if phrase not in excluded].index(chosen))
        return chosen


def enumerate_texts(world: World, prefix: str = "") -> Iterator[str]:
    """Every document of the world with a prefix, once, in the order of its choices."""
    parser = PathParser(prefix)
    with pytest.raises(NotInLanguage):
        world.derive(parser)
    assert parser.position == len(parser.tokens), prefix
    path = parser.path
    while True:
        follower = PathFollower(list(path))
        world.derive(follower)
        yield "".join(follower.pieces).rstrip(END).lstrip(" ")
        path = follower.path
        while len(path) > len(parser.path) and path[-1] == follower.num_options[len(path) - 1] - 1:
            path.pop()
        if len(path) == len(parser.path):
            return
        path[-1] += 1


@pytest.fixture(scope="session")
def texts() -> Callable[..., Iterator[str]]:
    return enumerate_texts


@pytest.fixture(scope="session")
def small_world() -> Callable[[int], World]:
    """A world with the first entry of every list, one domain, and stories of a given number of sentences."""
    tables = WorldTables(limit=1, domains=1)
    return lambda sentences: World(tables=tables, lengths=(sentences, sentences))


@pytest.fixture(scope="session")
def world() -> World:
    return World(seed=0)
