"""The entry point of `bertgpt` and of `python -m bertgpt`."""

import gc
import os
import signal
import sys
from contextlib import suppress
from types import FrameType


def leave(signum: int, frame: FrameType | None) -> None:
    """Exit at once and without a word: nothing has begun."""
    os._exit(128 + signum)


def main() -> None:
    """Run the command line; an interrupt while modules are still being imported is an exit code, not a traceback.

    Python's own tidying up is left out: all is closed and flushed, and it would take a tenth of a second.
    """
    previous = signal.signal(signal.SIGINT, leave)
    gc.set_threshold(100_000)  # looking for cycles among all that imports make would be a tenth of the start
    from bertgpt.cli.app import run

    signal.signal(signal.SIGINT, previous)
    code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
