"""Where the time of a run goes: every second is in one account, so that they add up to the whole."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timer:
    """Accounts of seconds; `rest` is what no other has."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.accounts: dict[str, float] = {}

    @contextmanager
    def measure(self, account: str) -> Iterator[None]:
        """Charge what happens meanwhile."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.accounts[account] = self.accounts.get(account, 0.0) + time.monotonic() - start

    def seconds(self, account: str) -> float:
        """What an account has so far."""
        return self.accounts.get(account, 0.0)

    def summary(self) -> dict[str, float]:
        """All accounts, to the millisecond, and the whole."""
        whole = time.monotonic() - self.began
        found = self.accounts | {"rest": whole - sum(self.accounts.values())}
        return {name: round(seconds, 3) for name, seconds in found.items()} | {"whole": round(whole, 3)}
