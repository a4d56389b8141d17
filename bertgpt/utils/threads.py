"""How long OpenMP threads spin before they sleep; torch reads it once, when it is imported."""

import os


def set_openmp_spin_count() -> None:
    """Let OpenMP threads spin for a tenth of a millisecond before they sleep, unless the machine is busy.

    Call it before torch is imported. Generation is a sequence of small matrix products: waking a thread for each would
    take a third of its time. On a busy machine, though, spinning threads take time from every other process.
    """
    if hasattr(os, "getloadavg") and os.getloadavg()[0] < (os.cpu_count() or 1) / 2:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
