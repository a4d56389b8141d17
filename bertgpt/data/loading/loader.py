"""Deterministic data loader: a batch is a pure function of (seed, step), so any process can compute any part of it.

Position p of the training stream is sample `permutation(p)`, on every machine. Each step takes the next positions. How
they are divided among ranks and micro-batches changes neither the samples nor their order.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bertgpt.data.loading.permutation import EpochPermutation
from bertgpt.utils.errors import BertGPTError

PERMUTATION_BLOCK = 8192  # positions that are permuted at once: a few cost as much as thousands
PREFETCH = 2  # batches that are prepared ahead
Indices = NDArray[np.int64]


class Dataset(Protocol):
    """Map-style dataset that returns whole batches."""

    def __len__(self) -> int: ...

    def batch(self, indices: Indices, epochs: Indices) -> Any:
        """The samples of these indices, each as it is in its epoch (masks change from epoch to epoch)."""


class ShuffledStream:
    """Endless stream of one dataset in shuffled order, `batch_size` samples per step. It counts its own epochs."""

    def __init__(self, dataset: Dataset, seed: int, batch_size: int) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self.permutation = EpochPermutation(len(dataset), seed)
        self.first, self.epochs, self.indices = 0, np.zeros(0, np.int64), np.zeros(0, np.int64)  # the current block

    def batch(self, positions: Indices) -> Any:
        """The samples at consecutive stream positions."""
        epochs, indices = self.epochs_and_indices(int(positions[0]), int(positions[-1]))
        return self.dataset.batch(indices, epochs)

    def epochs_and_indices(self, first: int, last: int) -> tuple[Indices, Indices]:
        """The epochs and sample indices of the positions `first` to `last`, from a cached block."""
        if not self.first <= first <= last < self.first + len(self.indices):
            self.first = first
            block = np.arange(first, max(first + PERMUTATION_BLOCK, last + 1))
            self.epochs, self.indices = self.permutation.epoch_and_index(block)
        inside = slice(first - self.first, last - self.first + 1)
        return self.epochs[inside], self.indices[inside]


@dataclass(frozen=True)
class BatchPartition:
    """How a global batch is divided: among `world_size` ranks, each with `accumulation_steps` micro-batches."""

    world_size: int = 1
    rank: int = 0
    accumulation_steps: int = 1


class StepLoader:
    """Batches of one or more streams. Each global batch has the samples of the first stream, then those of the next."""

    def __init__(self, *streams: ShuffledStream, partition: BatchPartition = BatchPartition()) -> None:
        self.streams, self.partition = streams, partition
        self.batch_size = sum(stream.batch_size for stream in streams)
        parts = partition.world_size * partition.accumulation_steps
        if self.batch_size % parts:
            raise BertGPTError("BG204", f"a global batch of {self.batch_size} rows is not divisible into {parts} parts")
        self.micro_batch_size = self.batch_size // parts

    def batch(self, step: int, micro_step: int) -> list[Any]:
        """A micro-batch of this rank: one batch for each stream that has samples in it."""
        positions = zip(self.streams, self.stream_positions(step, micro_step), strict=True)
        return [stream.batch(of_stream) for stream, of_stream in positions if len(of_stream)]

    def stream_positions(self, step: int, micro_step: int) -> list[Indices]:
        """The positions of each stream in a micro-batch of this rank."""
        start = (micro_step * self.partition.world_size + self.partition.rank) * self.micro_batch_size  # in the batch
        positions = []
        for stream in self.streams:
            within = np.arange(max(start, 0), max(min(start + self.micro_batch_size, stream.batch_size), 0))
            positions.append(step * stream.batch_size + within)
            start -= stream.batch_size
        return positions

    def steps(self, step: int = 0) -> Iterator[list[list[Any]]]:
        """The micro-batches of each step from `step` on, without end."""
        while True:
            yield [self.batch(step, micro_step) for micro_step in range(self.partition.accumulation_steps)]
            step += 1


def hybrid_split(batch_size: int, mlm_ratio: float) -> tuple[int, int]:
    """The numbers of masked and of causal rows in a hybrid batch."""
    masked = int(mlm_ratio * batch_size + 0.5)
    return masked, batch_size - masked


class Prefetcher:
    """Iterate in a background thread, a few items ahead. Exceptions are raised in the consumer."""

    def __init__(self, source: Iterator[Any], transform: Callable[[Any], Any] = lambda batch: batch) -> None:
        self.queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(PREFETCH)
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self.produce, args=(source, transform), daemon=True)
        self.thread.start()

    def produce(self, source: Iterator[Any], transform: Callable[[Any], Any]) -> None:
        """The background thread."""
        try:
            for batch in source:
                if not self.put((transform(batch), None)):
                    return
            self.put((None, StopIteration()))
        except BaseException as error:  # of any kind: it is raised in the consumer, not lost in the thread
            self.put((None, error))

    def put(self, item: tuple[Any, BaseException | None]) -> bool:
        """Wait for room in the queue; False if the prefetcher was closed."""
        if not self.closed.is_set():
            self.queue.put(item)
        return not self.closed.is_set()

    def __iter__(self) -> "Prefetcher":
        return self

    def __next__(self) -> Any:
        batch, error = self.queue.get()
        if error is not None:
            self.queue.put((None, error))
            raise error
        return batch

    def close(self) -> None:
        """Stop the background thread."""
        self.closed.set()
        with suppress(queue.Empty):
            while True:  # makes room for the one item that the thread may be waiting to add
                self.queue.get_nowait()
        self.thread.join()
