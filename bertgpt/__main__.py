"""The entry point of `bertgpt` and of `python -m bertgpt`."""

import os
import signal
import sys
from types import FrameType


def leave(signum: int, frame: FrameType | None) -> None:
    """Exit at once and without a word: nothing has begun."""
    os._exit(128 + signum)


def main() -> None:
    """Run the command line; an interrupt while modules are still being imported is an exit code, not a traceback."""
    previous = signal.signal(signal.SIGINT, leave)
    from bertgpt.cli import run

    signal.signal(signal.SIGINT, previous)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
