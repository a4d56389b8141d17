"""Wall-clock time of a run by phase."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timer:
    """Accumulates seconds by phase. With `other`, the time outside all phases, they add up to `total`."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.phases: dict[str, float] = {}

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the duration of the block to a phase."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.phases[phase] = self.phases.get(phase, 0.0) + time.monotonic() - start

    def seconds(self, phase: str) -> float:
        """Seconds spent in a phase so far."""
        return self.phases.get(phase, 0.0)

    def summary(self) -> dict[str, float]:
        """Seconds of each phase, of everything else (`other`), and in `total`, rounded to milliseconds."""
        total = time.monotonic() - self.start
        seconds = self.phases | {"other": total - sum(self.phases.values()), "total": total}
        return {name: round(value, 3) for name, value in seconds.items()}
