"""Counter-based random numbers: pure functions of seed and key, without generator state.

`uniform(seed, keys, count)` gives `count` numbers in [0, 1) for every key. The same seed and key give the same
numbers in any process, batch size or order of calls, so there is no generator state to save. The mixing function is
the finalizer of SplitMix64 (Steele, Lea and Flood, 2014), applied once for each part of the key.
"""

from collections.abc import Iterator
from itertools import count

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: the increment of the counter
MASK = (1 << 64) - 1

Keys = NDArray[np.uint64]


def splitmix64(x: Keys) -> Keys:
    """Finalizer of SplitMix64: a bijection on 64-bit words; each input bit flips each output bit half of the time."""
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def hash_key(seed: int, keys: Keys) -> Keys:
    """Hash of seed and key: a 64-bit word for each key, independent across seeds and keys."""
    seeded = np.array([(seed * GOLDEN + GOLDEN) & MASK], np.uint64)
    return splitmix64(splitmix64(seeded) ^ splitmix64(keys + np.uint64(GOLDEN)))


def uniform(seed: int, keys: Keys, count: int, first: int = 0) -> NDArray[np.float64]:
    """Uniform random numbers `first` to `first + count` of every key, in [0, 1), shape (keys, count)."""
    counters = np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    bits = splitmix64(hash_key(seed, keys)[:, None] + counters[None, :])  # (keys, count)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def stream(seed: int, key: int, first: int = 0, block: int = 64) -> Iterator[float]:
    """Infinite stream of the uniform random numbers of one key, from number `first` on."""
    for start in count(first, block):
        yield from uniform(seed, np.array([key], np.uint64), block, start)[0].tolist()
