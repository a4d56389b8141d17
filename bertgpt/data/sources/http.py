"""Remote files, read by byte ranges with retries and never stored on disk."""

import io
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from bertgpt.utils.errors import BertGPTError, require_package

READAHEAD = 16_000_000  # bytes fetched beyond what was requested, since they are likely to be requested next
MAX_ATTEMPTS = 6
INITIAL_BACKOFF, MAX_BACKOFF = 0.5, 30.0  # seconds before another attempt; doubled each time
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}

T = TypeVar("T")
Fetch = Callable[[int, int], bytes]  # start, stop -> the bytes of that range


class TransientError(OSError):
    """A failed or wrong response to a request that is worth repeating."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds, if the server has sent it


class RangeReader(io.RawIOBase):
    """A remote file. The last fetched block is kept, so that reading on needs no further request.

    `ranges` are the byte ranges that will be read, in order; little else is fetched.
    """

    def __init__(self, fetch: Fetch, size: int, ranges: Sequence[tuple[int, int]] = ()) -> None:
        self.fetch, self.size = fetch, size
        self.starts = [start for start, _ in ranges]
        self.stops = [stop for _, stop in ranges]
        self.position = 0
        self.block_start, self.block = 0, b""

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
        start = min(self.position, stop)
        self.position = stop
        return self.read_range(start, stop)

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read_range(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop`, from the current block as far as it has them."""
        if not self.block_start <= start <= self.block_start + len(self.block):
            self.block_start, self.block = start, b""
        block_stop = self.block_start + len(self.block)
        if stop > block_stop:
            fetch_stop = max(stop, min(block_stop + READAHEAD, self.end_of_range(start)))
            data = self.fetch(block_stop, min(fetch_stop, self.size))
            self.block = self.block[start - self.block_start :] + data
            self.block_start = start
        return self.block[start - self.block_start : stop - self.block_start]

    def end_of_range(self, position: int) -> int:
        """The end of the range with this position: how far readahead is useful."""
        if not self.starts:
            return self.size
        i = bisect_right(self.starts, position) - 1
        return self.stops[i] if i >= 0 else position


def coalesce_ranges(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merge byte ranges with small gaps between them, to make fewer requests."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start - merged[-1][1] <= (stop - start) // 4:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def retrying_fetch(fetch: Fetch, location: str) -> Fetch:
    """Wrap `fetch` with retries, also for responses of the wrong length."""

    def checked(start: int, stop: int) -> bytes:
        data = fetch(start, stop)
        if len(data) != stop - start:
            raise TransientError(f"received {len(data):,} of {stop - start:,} bytes")
        return data

    return lambda start, stop: with_retries(lambda: checked(start, stop), location)


def with_retries(call: Callable[[], T], location: str, attempts: int = MAX_ATTEMPTS) -> T:
    """Call until it succeeds, with exponential backoff between the attempts."""
    backoff = INITIAL_BACKOFF
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except (BertGPTError, FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # each client library has its own exceptions
            if attempt == attempts:
                raise unreachable_error(location, error, attempts) from None
            retry_after = float(getattr(error, "retry_after", 0.0))
        jitter = 0.8 + 0.4 * (time.monotonic_ns() % 1009) / 1009  # so that many workers do not retry at once
        time.sleep(min(max(backoff, retry_after), MAX_BACKOFF) * jitter)
        backoff *= 2
    raise AssertionError


def unreachable_error(location: str, error: Exception, attempts: int) -> BertGPTError:
    """The error after the last attempt. URLs in the client's message may be signed, so only our own is shown."""
    message = re.sub(r"https?://\S+", "the server", str(error)).splitlines()
    cause = f"{type(error).__name__}: {message[0][:200] if message else ''}".removesuffix(": ")
    return BertGPTError(
        "BG408",
        "server cannot be reached",
        path=location,
        cause=f"{cause}, after {attempts} attempts",
        hint="run the same command again: finished tasks are kept",
    )


# -------------------------------------------------------------------------------------------------------- any URL


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem for a URL (s3://, gs://, https:// and whatever else fsspec knows), and the path in it."""
    import fsspec

    protocol = url.partition(":")[0]
    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except ImportError as error:
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(protocol)
        if package is None:
            message = f"{protocol}:// needs a package that is not installed: {error.name or error}"
            raise BertGPTError("BG211", message, path=url) from None
        require_package(package, "cloud")
        raise
    except ValueError:
        raise BertGPTError("BG211", f"unsupported protocol: {protocol}://", path=url) from None


def range_fetcher(url: str) -> Fetch:
    """A function that fetches byte ranges of the file at a URL."""
    fs, path = filesystem(url)
    return retrying_fetch(lambda start, stop: bytes(fs.cat_file(path, start=start, end=stop)), url)
