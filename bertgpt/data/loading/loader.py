"""Batches as a function of the step: nothing is remembered between them, so any process can make any part of any batch.

Slot s of training is sample `order(s)`, whoever makes it. A step takes the next slots; how these are divided among
processes and micro-batches changes neither which samples they are nor their order.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bertgpt.data.loading.permutation import EpochPermutation
from bertgpt.utils.errors import BertGPTError

BLOCK = 8192  # slots whose samples are found at once
PREFETCH = 2  # batches that are made before they are asked for
Slots = NDArray[np.int64]


class Dataset(Protocol):
    """Something that has so many samples, and can make any of them."""

    def __len__(self) -> int: ...

    def batch(self, samples: Slots, epochs: Slots) -> Any:
        """Some of them, each as it is in an epoch."""


class ShuffledStream:
    """Samples in the order of a seed, so many of them in each step. It counts its own slots, and so its own epochs."""

    def __init__(self, samples: Dataset, seed: int, size: int) -> None:
        self.samples, self.size = samples, size
        self.order = EpochPermutation(len(samples), seed)
        self.first, self.epochs, self.numbers = 0, np.zeros(0, np.int64), np.zeros(0, np.int64)

    def batch(self, slots: Slots) -> Any:
        """What stands at slots that follow each other."""
        epochs, numbers = self.at(int(slots[0]), int(slots[-1]))
        return self.samples.batch(numbers, epochs)

    def at(self, first: int, last: int) -> tuple[Slots, Slots]:
        """The epochs and samples of some slots; thousands are found at once, since few cost as much."""
        if not self.first <= first <= last < self.first + len(self.numbers):
            self.first = first
            self.epochs, self.numbers = self.order.epoch_and_index(np.arange(first, max(first + BLOCK, last + 1)))
        some = slice(first - self.first, last - self.first + 1)
        return self.epochs[some], self.numbers[some]


@dataclass(frozen=True)
class BatchPartition:
    """Which of `world` processes this is, and how each step's batch is divided."""

    world: int = 1
    rank: int = 0
    accumulation: int = 1


class StepLoader:
    """Batches of one stream, or of several that share each step: first the samples of one, then those of the next."""

    def __init__(self, *streams: ShuffledStream, division: BatchPartition = BatchPartition()) -> None:
        self.streams, self.division = streams, division
        self.size = sum(stream.size for stream in streams)
        parts = division.world * division.accumulation
        if self.size % parts:
            raise BertGPTError("BG204", f"a batch of {self.size} cannot be divided into {parts} equal parts")
        self.micro = self.size // parts

    def batch(self, step: int, number: int) -> list[Any]:
        """Micro-batch `number` of a step: what there is of each stream in it."""
        found = zip(self.streams, self.slots(step, number), strict=True)
        return [stream.batch(slots) for stream, slots in found if len(slots)]

    def slots(self, step: int, number: int) -> list[Slots]:
        """The slots of each stream in micro-batch `number` of a step."""
        start = (number * self.division.world + self.division.rank) * self.micro  # within the step
        found = []
        for stream in self.streams:
            inside = np.arange(max(start, 0), max(min(start + self.micro, stream.size), 0))
            found.append(step * stream.size + inside)
            start -= stream.size
        return found

    def steps(self, step: int = 0) -> Iterator[list[list[Any]]]:
        """The micro-batches of one step after the other, without end."""
        while True:
            yield [self.batch(step, number) for number in range(self.division.accumulation)]
            step += 1


def hybrid_split(batch: int, ratio: float) -> tuple[int, int]:
    """How many samples of a step are masked and how many causal, where both are trained at once."""
    first = int(ratio * batch + 0.5)
    return first, batch - first


class Prefetcher:
    """What an iterator yields, made in the background a little ahead. Its errors come out where they are asked for."""

    def __init__(self, source: Iterator[Any], finish: Callable[[Any], Any] = lambda batch: batch) -> None:
        self.queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(PREFETCH)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.work, args=(source, finish), daemon=True)
        self.thread.start()

    def work(self, source: Iterator[Any], finish: Callable[[Any], Any]) -> None:
        """In the background."""
        try:
            for batch in source:
                if not self.put((finish(batch), None)):
                    return
            self.put((None, StopIteration()))
        except BaseException as error:  # whatever it is, it must not be lost here
            self.put((None, error))

    def put(self, item: tuple[Any, BaseException | None]) -> bool:
        """Wait for room, unless nobody will come."""
        while not self.stopping.is_set():
            try:
                self.queue.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> "Prefetcher":
        return self

    def __next__(self) -> Any:
        batch, error = self.queue.get()
        if error is not None:
            self.queue.put((None, error))
            raise error
        return batch

    def close(self) -> None:
        """No more is wanted."""
        self.stopping.set()
        self.thread.join()
