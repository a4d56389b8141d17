"""Shuffling without storage: the permutation of each epoch, computed index by index with a Feistel network.

The network permutes the numbers below a power of four; a result beyond the last sample is permuted again until it is
within range (cycle walking; Black and Rogaway, 2002). The cost is the same for a thousand samples or a trillion.
"""

import numpy as np
from numpy.typing import NDArray

from bertgpt.utils.rng import hash_key, splitmix64

ROUNDS = 4


class EpochPermutation:
    """Maps positions in the training stream to samples. Positions continue from epoch to epoch."""

    def __init__(self, num_samples: int, seed: int) -> None:
        self.num_samples, self.seed = num_samples, seed
        self.half_bits = max(1, (max(num_samples - 1, 1).bit_length() + 1) // 2)
        self.half_mask = np.uint64((1 << self.half_bits) - 1)

    def epoch_and_index(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The epoch and the sample index of each stream position."""
        epochs, offsets = np.divmod(positions, self.num_samples)
        indices = self.feistel(offsets.astype(np.uint64), epochs.astype(np.uint64))
        outside = indices >= self.num_samples
        while outside.any():
            indices[outside] = self.feistel(indices[outside], epochs[outside].astype(np.uint64))
            outside = indices >= self.num_samples
        return epochs, indices.astype(np.int64)

    def feistel(self, numbers: NDArray[np.uint64], epochs: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The Feistel network: each round adds a keyed hash of one half to the other."""
        left, right = numbers >> np.uint64(self.half_bits), numbers & self.half_mask
        keys = hash_key(self.seed, epochs)
        for number in range(ROUNDS):
            left, right = right, left ^ (splitmix64(keys + right + np.uint64(number << 60)) & self.half_mask)
        return (left << np.uint64(self.half_bits)) | right
