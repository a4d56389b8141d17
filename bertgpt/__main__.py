"""The entry point of `bertgpt` and of `python -m bertgpt`."""

import gc
import os
import signal
import sys
from contextlib import suppress
from types import FrameType


def exit_immediately(signum: int, frame: FrameType | None) -> None:
    """Exit without a message: no work has started yet."""
    os._exit(128 + signum)


def main() -> None:
    """Run the command line. An interrupt while modules are being imported exits with a code, not with a traceback.

    Python's shutdown is skipped: everything is closed and flushed by then, and it would take a tenth of a second.
    """
    previous = signal.signal(signal.SIGINT, exit_immediately)
    gc.set_threshold(100_000)  # garbage collection during imports would take a tenth of the startup time
    from bertgpt.cli.app import run

    signal.signal(signal.SIGINT, previous)
    code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
