"""Files that are read by ranges."""

import random

import pytest

from bertgpt.data.sources import http
from bertgpt.data.sources.http import RangeReader, TransientError, coalesce_ranges, retrying_fetch, with_retries
from bertgpt.utils.errors import BertGPTError

CONTENT = random.Random(0).randbytes(100_000)


class Fetched:
    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, begin: int, stop: int) -> bytes:
        self.calls.append((begin, stop))
        return CONTENT[begin:stop]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READAHEAD", 1000)
    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)


def test_any_reads_give_the_bytes_of_the_file() -> None:
    draw = random.Random(1)
    file = RangeReader(Fetched(), len(CONTENT))
    for _ in range(2000):
        place, size = draw.randrange(len(CONTENT) + 10), draw.choice([0, 1, 7, 500, 3000])
        if draw.random() < 0.5:
            file.seek(place)
        place = file.tell()
        assert file.read(size) == CONTENT[place : place + size]
    file.seek(-10, 2)
    assert file.read() == CONTENT[-10:]
    assert file.read() == b""


def test_reading_on_costs_no_further_request() -> None:
    fetched = Fetched()
    file = RangeReader(fetched, len(CONTENT))
    for _ in range(100):
        file.read(100)
    assert len(fetched.calls) == 10
    assert sum(stop - begin for begin, stop in fetched.calls) <= 11_000  # nothing twice


def test_little_is_fetched_beyond_the_end_of_what_will_be_read() -> None:
    fetched = Fetched()
    file = RangeReader(fetched, len(CONTENT), [(0, 5000)])
    while file.tell() < 5000:
        file.read(100)
    assert max(stop for _, stop in fetched.calls) == 5000
    assert file.read(10) == CONTENT[5000:5010]


def test_chunks_are_fetched_together_where_little_lies_between() -> None:
    assert coalesce_ranges([(0, 100), (110, 210), (220, 320), (1000, 1100), (1200, 1300)]) == [
        (0, 320),
        (1000, 1100),
        (1200, 1300),
    ]
    fetched = Fetched()
    file = RangeReader(fetched, len(CONTENT), [(100, 300), (5000, 5200)])
    for place in (100, 150, 290, 5000, 5100):
        file.seek(place)
        file.read(10)
    assert fetched.calls == [(100, 300), (5000, 5200)]


def test_trying_again_ends() -> None:
    calls = []

    def never() -> None:
        calls.append(1)
        raise ConnectionError("https://server/file?signature=secret is down")

    with pytest.raises(BertGPTError) as error:
        with_retries(never, "the file")
    assert error.value.code == "BG408"
    assert len(calls) == http.MAX_ATTEMPTS
    assert "secret" not in str(error.value)


def test_a_wrong_number_of_bytes_is_no_answer() -> None:
    lengths = iter([10, 99, 101, 100])
    fetch = retrying_fetch(lambda begin, stop: bytes(next(lengths)), "the file")
    assert len(fetch(0, 100)) == 100


def test_a_server_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(http.time, "sleep", waits.append)
    answers = iter([TransientError("busy", 12.0), TransientError("busy"), None])

    def call() -> int:
        if error := next(answers):
            raise error
        return 1

    assert with_retries(call, "the file") == 1
    assert 9 < waits[0] < 15
    assert waits[1] < 2


def test_what_is_not_there_is_not_asked_for_again() -> None:
    calls = []

    def missing() -> None:
        calls.append(1)
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        with_retries(missing, "the file")
    assert len(calls) == 1
