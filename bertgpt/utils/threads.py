"""How OpenMP threads wait, which torch reads when it is imported."""

import os


def stay_awake() -> None:
    """Have threads wait for a tenth of a millisecond before they sleep, if this machine has nothing else to do.

    Generation goes from one small product to the next: to wake a thread for each would be a third of its time. But
    where others compute, threads that wait awake take from everybody. Before torch is imported, as above.
    """
    if hasattr(os, "getloadavg") and os.getloadavg()[0] < (os.cpu_count() or 1) / 2:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
