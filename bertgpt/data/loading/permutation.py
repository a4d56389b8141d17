"""The order of samples: a permutation of each epoch that is computed where it is needed and stored nowhere.

A Feistel network permutes the numbers below a power of four; whoever lands beyond the last sample walks on until he
lands within (Black and Rogaway, 2002). So a slot costs the same whether there are a thousand samples or a trillion.
"""

import numpy as np
from numpy.typing import NDArray

from bertgpt.utils.rng import hash_key, splitmix64

ROUNDS = 4


class EpochPermutation:
    """Which sample stands at which slot; slots count on from epoch to epoch."""

    def __init__(self, samples: int, seed: int) -> None:
        self.samples, self.seed = samples, seed
        self.half = max(1, (max(samples - 1, 1).bit_length() + 1) // 2)  # bits of each half
        self.low = np.uint64((1 << self.half) - 1)

    def epoch_and_index(self, slots: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The epoch and the sample of each slot."""
        epochs, places = np.divmod(slots, self.samples)
        found = self.feistel(places.astype(np.uint64), epochs.astype(np.uint64))
        outside = found >= self.samples
        while outside.any():
            found[outside] = self.feistel(found[outside], epochs[outside].astype(np.uint64))
            outside = found >= self.samples
        return epochs, found.astype(np.int64)

    def feistel(self, numbers: NDArray[np.uint64], epochs: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The network: each round mixes one half into the other."""
        left, right = numbers >> np.uint64(self.half), numbers & self.low
        keys = hash_key(self.seed, epochs)
        for number in range(ROUNDS):
            left, right = right, left ^ (splitmix64(keys + right + np.uint64(number << 60)) & self.low)
        return (left << np.uint64(self.half)) | right
