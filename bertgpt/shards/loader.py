"""Batches as a function of the step: nothing is remembered between them, so any process can make any part of any batch.

Slot s of training is sample `order(s)`, whoever makes it. A step takes the next `batch` slots; how these are divided
among processes and micro-batches changes neither which samples they are nor their order.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bertgpt.errors import BertGPTError
from bertgpt.files import sha256_of
from bertgpt.shards.format import TokenFile, read_manifest, verify, verify_tokenizer
from bertgpt.shards.frames import Framer, Frames, SpanFile, Specials
from bertgpt.shards.masking import Masked, Scheme, Vocabulary, masked
from bertgpt.shards.order import Order
from bertgpt.tokens.tokenizer import Tokenizer

BLOCK = 8192  # slots whose samples are found at once
AHEAD = 2  # batches that are made before they are asked for
Slots = NDArray[np.int64]


@dataclass(frozen=True)
class Causal:
    """Windows of the stream: the ids and the one after them. What is beyond the end of the stream is not scored."""

    ids: NDArray[Any]  # (rows, T + 1), as stored
    scored: NDArray[np.int64]  # (rows,): how many targets there are


@dataclass(frozen=True)
class MaskedRows:
    """Rows of a plan with what is hidden in them."""

    frames: Frames
    masks: Masked
    labels: NDArray[Any]  # (rows, K): what was hidden


class Samples(Protocol):
    """Something that has so many samples, and can make any of them."""

    def __len__(self) -> int: ...

    def batch(self, samples: Slots, epochs: Slots) -> Any:
        """Some of them, each as it is in an epoch."""


class Windows:
    """Causal samples of a split: window i has the targets i * T to (i + 1) * T of the stream of all its shards."""

    def __init__(self, folder: Path, split: str, length: int) -> None:
        manifest = opened(folder, "shards")
        verify_tokenizer(folder, manifest)
        self.files = files_of(folder, manifest, split)
        self.length = length
        self.first = np.cumsum([0, *(len(file.flat) for file in self.files)])  # of each file in the stream
        self.targets = max(int(self.first[-1]) - 1, 0)
        self.end = manifest["tokenizer"]["roles"]["end"]
        self.flats = [file.flat for file in self.files]

    def __len__(self) -> int:
        return -(-self.targets // self.length)

    def batch(self, samples: Slots, epochs: Slots) -> Causal:
        """The windows; an epoch does not change them."""
        width = self.length + 1
        ids = np.empty((len(samples), width), self.flats[0].dtype)
        starts = samples * self.length
        homes = np.searchsorted(self.first, starts, side="right") - 1
        places = (starts - self.first[homes]).tolist()
        for row, home, place in zip(ids, homes.tolist(), places, strict=True):
            some = self.flats[home][place : place + width]
            row[: len(some)] = some
            if len(some) < width:
                self.fill(row[len(some) :], home + 1)
        return Causal(ids, np.minimum(self.targets - starts, self.length))

    def fill(self, rest: NDArray[Any], home: int) -> None:
        """The rest of a window from the files that follow, or the end id where there is none."""
        for flat in self.flats[home:]:
            some = flat[: len(rest)]
            rest[: len(some)] = some
            rest = rest[len(some) :]
        rest[:] = self.end


class Rows:
    """Masked samples of a split of a plan."""

    def __init__(self, folder: Path, split: str, shards: Path | None = None) -> None:
        manifest = opened(folder, "plan")
        tokenizer = verify_tokenizer(folder, manifest)
        config = manifest["config"]
        base = opened_base(folder, manifest, shards)
        self.flats = [TokenFile(base[0] / name.replace(".spans", "")).flat for name in names_of(manifest, split)]
        self.spans = [SpanFile(folder / name) for name in names_of(manifest, split)]
        self.first = np.cumsum([0, *map(len, self.spans)])
        self.seed = config["seed"]
        self.fixed = split != "train"  # the same masks whenever it is looked at
        self.scheme = (
            Scheme(config["scheme"])
            if self.fixed
            else Scheme(config["scheme"], config["rate"], config["mask_share"], config["random_share"])
        )
        pieces = max((file["most_pieces"] for file in manifest["files"] if "most_pieces" in file), default=1)
        self.framer = Framer(config["seq_len"], pieces, specials_of(tokenizer), tokenizer.dtype)
        self.vocabulary = vocabulary_of(tokenizer)

    def __len__(self) -> int:
        return int(self.first[-1])

    def batch(self, samples: Slots, epochs: Slots) -> MaskedRows:
        """Rows, each with the masks of its epoch."""
        homes = np.searchsorted(self.first, samples, side="right") - 1
        places = (samples - self.first[homes]).tolist()
        rows = [(self.spans[h], self.flats[h], p) for h, p in zip(homes.tolist(), places, strict=True)]
        frames = self.framer.frames(rows)
        drawn = np.zeros_like(epochs) if self.fixed else epochs
        masks = masked(frames.ids, frames.text, frames.begins, samples, drawn, self.seed, self.scheme, self.vocabulary)
        labels = np.take_along_axis(frames.ids, masks.positions.astype(np.int64), axis=1)
        return MaskedRows(frames, masks, labels)


def opened(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a folder that is whole."""
    manifest = read_manifest(folder)
    if manifest["kind"] != kind:
        raise BertGPTError("BG211", f"{folder} holds {manifest['kind']}, not {kind}")
    verify(folder, manifest)
    return manifest


def opened_base(folder: Path, manifest: dict[str, Any], shards: Path | None) -> tuple[Path, dict[str, Any]]:
    """The shards that a plan was made for; others are refused."""
    base = manifest["base"]
    where = shards or folder / base["path"]
    found = sha256_of(where / "manifest.json") if (where / "manifest.json").is_file() else "no manifest"
    if found != base["manifest_sha256"]:
        raise BertGPTError(
            "BG317",
            "these are not the shards that the plan was made for",
            path=str(where),
            cause=f"{found} there, {base['manifest_sha256']} in the plan",
            hint="make the plan again, or put the shards back where they were",
        )
    return where, opened(where, "shards")


def files_of(folder: Path, manifest: dict[str, Any], split: str) -> list[TokenFile]:
    """The shards of a split, in order."""
    return [TokenFile(folder / name) for name in names_of(manifest, split)]


def names_of(manifest: dict[str, Any], split: str) -> list[str]:
    """The files of a split, in order."""
    names = [file["path"] for file in manifest["files"] if file.get("split") == split]
    if not names:
        known = sorted({file["split"] for file in manifest["files"] if "split" in file})
        raise BertGPTError("BG211", f"there is no split {split}", cause=f"the splits are {', '.join(known)}")
    return names


def specials_of(tokenizer: Tokenizer) -> Specials:
    """What frames pieces."""
    return Specials(tokenizer.roles["pad"], tokenizer.roles["cls"], tokenizer.roles["sep"])


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """What masks are made of."""
    used = np.array(sorted(set(tokenizer.vocab.values()) - tokenizer.special_ids), tokenizer.dtype)
    return Vocabulary(tokenizer.roles["mask"], used, tokenizer.starts_word)


# ------------------------------------------------------------------------------------------------- the order


@dataclass(frozen=True)
class Division:
    """Which of `world` processes this is, and how each step's batch is divided."""

    world: int = 1
    rank: int = 0
    accumulation: int = 1


class Loader:
    """Batches of some samples in the order of a seed."""

    def __init__(self, samples: Samples, seed: int, batch: int, division: Division = Division()) -> None:
        self.samples, self.size, self.division = samples, batch, division
        self.order = Order(len(samples), seed)
        parts = division.world * division.accumulation
        if batch % parts:
            raise BertGPTError("BG204", f"a batch of {batch} cannot be divided into {parts} equal parts")
        self.micro = batch // parts
        empty = np.zeros(0, np.int64)
        self.block: tuple[int, Slots, Slots] = (
            0,
            empty,
            empty,
        )  # its first slot, epochs, samples

    def slots(self, offset: int, number: int) -> Slots:
        """The slots of micro-batch `number` of a step that begins at slot `offset`."""
        first = offset + (number * self.division.world + self.division.rank) * self.micro
        return np.arange(first, first + self.micro)

    def batch(self, offset: int, number: int) -> Any:
        """The samples there."""
        slots = self.slots(offset, number)
        epochs, samples = self.known(slots)
        return self.samples.batch(samples, epochs)

    def known(self, slots: Slots) -> tuple[Slots, Slots]:
        """The samples at these slots; thousands are found at once, since few cost as much."""
        first, last = int(slots[0]), int(slots[-1])
        if not self.block[0] <= first <= last < self.block[0] + len(self.block[1]):
            self.block = (first, *self.order.at(np.arange(first, max(first + BLOCK, last + 1))))
        start, epochs, samples = self.block
        return epochs[first - start : last - start + 1], samples[first - start : last - start + 1]

    def steps(self, offset: int = 0) -> Iterator[list[Any]]:
        """The micro-batches of one step after the other, without end."""
        while True:
            yield [self.batch(offset, number) for number in range(self.division.accumulation)]
            offset += self.size


class Ahead:
    """What an iterator yields, made in the background a little ahead. Its errors come out where they are asked for."""

    def __init__(self, source: Iterator[Any], finish: Callable[[Any], Any] = lambda batch: batch) -> None:
        self.queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(AHEAD)
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

    def __iter__(self) -> "Ahead":
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
