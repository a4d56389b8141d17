"""Files that are elsewhere, read by ranges and never kept on disk. What goes wrong on the way is tried again."""

import io
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from bertgpt.utils.errors import BertGPTError, require_package

READAHEAD = 16_000_000  # bytes that are fetched beyond what was asked for, since they will be asked for next
ATTEMPTS = 6
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before another attempt; doubled each time
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}

T = TypeVar("T")
Fetch = Callable[[int, int], bytes]  # the bytes from one place to another


class TransientError(OSError):
    """An answer that is not what was asked for, and may be at another time."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait  # seconds, if the server has said so


class RangeReader(io.RawIOBase):
    """A remote file. What is fetched is kept until something else is, so that reading on costs no further request.

    `stretches` are what will be read, from one place to another, in order; little else is fetched.
    """

    def __init__(self, fetch: Fetch, size: int, stretches: Sequence[tuple[int, int]] = ()) -> None:
        self.fetch, self.size = fetch, size
        self.begins = [begin for begin, _ in stretches]
        self.ends = [end for _, end in stretches]
        self.position = 0
        self.start, self.block = 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        stop = self.size if size is None or size < 0 else min(self.position + size, self.size)
        begin = min(self.position, stop)
        self.position = stop
        return self.read_range(begin, stop)

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        some = self.read(len(buffer))
        buffer[: len(some)] = some
        return len(some)

    def read_range(self, begin: int, stop: int) -> bytes:
        """The bytes from one place to another, of which some may be here."""
        if not self.start <= begin <= self.start + len(self.block):
            self.start, self.block = begin, b""
        have = self.start + len(self.block)
        if stop > have:
            more = self.fetch(have, min(max(stop, min(have + READAHEAD, self.end_of_stretch(begin))), self.size))
            self.block = self.block[begin - self.start :] + more
            self.start = begin
        return self.block[begin - self.start : stop - self.start]

    def end_of_stretch(self, place: int) -> int:
        """Up to where it is worth to read on."""
        if not self.begins:
            return self.size
        i = bisect_right(self.begins, place) - 1
        return self.ends[i] if i >= 0 else place


def coalesce_ranges(chunks: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Chunks of a file as fewer stretches, of which little is not wanted."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(chunks):
        if found and begin - found[-1][1] <= (end - begin) // 4:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def retrying_fetch(fetch: Fetch, place: str) -> Fetch:
    """The same, tried again until the right number of bytes comes."""

    def whole(begin: int, stop: int) -> bytes:
        found = fetch(begin, stop)
        if len(found) != stop - begin:
            raise TransientError(f"{len(found):,} of {stop - begin:,} bytes came")
        return found

    return lambda begin, stop: with_retries(lambda: whole(begin, stop), place)


def with_retries(call: Callable[[], T], place: str, attempts: int = ATTEMPTS) -> T:
    """Try a few times, each after a longer wait."""
    wait = FIRST_WAIT
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except (BertGPTError, FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # each client has exceptions of its own
            if attempt == attempts:
                raise unreachable_error(place, error, attempts) from None
            asked = float(getattr(error, "wait", 0.0))
        spread = 0.8 + 0.4 * (time.monotonic_ns() % 1009) / 1009  # so that many do not come back at once
        time.sleep(min(max(wait, asked), LONGEST_WAIT) * spread)
        wait *= 2
    raise AssertionError


def unreachable_error(place: str, error: Exception, attempts: int) -> BertGPTError:
    """What to say when the last attempt has failed. Addresses may be signed, so none is shown but ours."""
    said = re.sub(r"https?://\S+", "the server", str(error)).splitlines()
    cause = f"{type(error).__name__}: {said[0][:200] if said else ''}".removesuffix(": ")
    return BertGPTError(
        "BG408",
        "this cannot be reached",
        path=place,
        cause=f"{cause}, after {attempts} attempts",
        hint="run the same command again: what is finished is kept",
    )


# ------------------------------------------------------------------------------------------- any address


def filesystem(address: str) -> tuple[Any, str]:
    """What reads an address: s3://, gs://, https:// and whatever else fsspec knows."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(address)  # type: ignore[no-any-return]
    except ImportError as error:
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(address.partition(":")[0])
        if package is None:
            raise BertGPTError("BG211", f"{address} is of a kind that needs {error.name or error}") from None
        require_package(package, "cloud")
        raise
    except ValueError:
        raise BertGPTError("BG211", f"{address.partition(':')[0]}:// is no kind of address that can be read") from None


def fetch_of(address: str) -> Fetch:
    """How parts of the file at an address are fetched."""
    files, path = filesystem(address)
    return retrying_fetch(lambda begin, stop: bytes(files.cat_file(path, start=begin, end=stop)), address)
