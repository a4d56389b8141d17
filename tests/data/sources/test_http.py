"""Remote files read by byte ranges, and retries."""

import random

import pytest

from bertgpt.data.sources import http
from bertgpt.data.sources.http import RangeReader, TransientError, coalesce_ranges, retrying_fetch, with_retries
from bertgpt.utils.errors import BertGPTError

CONTENT = random.Random(0).randbytes(100_000)


class CountingFetch:
    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, start: int, stop: int) -> bytes:
        self.calls.append((start, stop))
        return CONTENT[start:stop]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READAHEAD", 1000)
    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)


def test_random_reads_return_the_bytes_of_the_file() -> None:
    rng = random.Random(1)
    file = RangeReader(CountingFetch(), len(CONTENT))
    for _ in range(2000):
        position, size = rng.randrange(len(CONTENT) + 10), rng.choice([0, 1, 7, 500, 3000])
        if rng.random() < 0.5:
            file.seek(position)
        position = file.tell()
        assert file.read(size) == CONTENT[position : position + size]
    file.seek(-10, 2)
    assert file.read() == CONTENT[-10:]
    assert file.read() == b""


def test_sequential_reads_use_readahead() -> None:
    fetch = CountingFetch()
    file = RangeReader(fetch, len(CONTENT))
    for _ in range(100):
        file.read(100)
    assert len(fetch.calls) == 10
    assert sum(stop - start for start, stop in fetch.calls) <= 11_000  # nothing twice


def test_readahead_stops_at_the_end_of_the_range() -> None:
    fetch = CountingFetch()
    file = RangeReader(fetch, len(CONTENT), [(0, 5000)])
    while file.tell() < 5000:
        file.read(100)
    assert max(stop for _, stop in fetch.calls) == 5000
    assert file.read(10) == CONTENT[5000:5010]


def test_ranges_with_small_gaps_are_coalesced() -> None:
    assert coalesce_ranges([(0, 100), (110, 210), (220, 320), (1000, 1100), (1200, 1300)]) == [
        (0, 320),
        (1000, 1100),
        (1200, 1300),
    ]
    fetch = CountingFetch()
    file = RangeReader(fetch, len(CONTENT), [(100, 300), (5000, 5200)])
    for position in (100, 150, 290, 5000, 5100):
        file.seek(position)
        file.read(10)
    assert fetch.calls == [(100, 300), (5000, 5200)]


def test_retries_are_bounded() -> None:
    calls = []

    def never() -> None:
        calls.append(1)
        raise ConnectionError("https://server/file?signature=secret is down")

    with pytest.raises(BertGPTError) as error:
        with_retries(never, "the file")
    assert error.value.code == "BG408"
    assert len(calls) == http.MAX_ATTEMPTS
    assert "secret" not in str(error.value)


def test_short_and_long_responses_are_retried() -> None:
    lengths = iter([10, 99, 101, 100])
    fetch = retrying_fetch(lambda start, stop: bytes(next(lengths)), "the file")
    assert len(fetch(0, 100)) == 100


def test_retry_after_is_honored(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(http.time, "sleep", waits.append)
    outcomes = iter([TransientError("busy", 12.0), TransientError("busy"), None])

    def call() -> int:
        if error := next(outcomes):
            raise error
        return 1

    assert with_retries(call, "the file") == 1
    assert 9 < waits[0] < 15
    assert waits[1] < 2


def test_missing_files_are_not_retried() -> None:
    calls = []

    def missing() -> None:
        calls.append(1)
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        with_retries(missing, "the file")
    assert len(calls) == 1
