"""Sources cut into pieces that one task each will read.

Pieces depend on the source alone: neither on the order in which files are named, nor on their folder, nor on how many
workers there are.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bertgpt.data.sources.source import InputSplit, ReadOptions, Source
from bertgpt.data.sources.tabular import footer, group_sizes
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError

SMALLEST, LARGEST, PIECES = 1_000_000, 128_000_000, 64  # bytes of a piece, and how many there should be
WORLD_BYTES, WORLD_PIECE = 330, 8192  # a tinyworld document on average, and documents in a piece


def input_splits(sources: Sequence[Source], reading: ReadOptions, documents: int | None) -> list[InputSplit]:
    """The sources cut up, in canonical order; `documents` bounds the built-in world, which has no end of its own."""
    total = sum(source.bytes for source in sources)
    size = min(max(total // PIECES, SMALLEST), LARGEST)
    cut: list[InputSplit] = []
    for source in sources:
        if source.format == "tinyworld":
            if documents is None:
                raise BertGPTError("BG203", "tinyworld has no end", hint="say how much of it with --limit-docs")
            for start in range(0, documents, WORLD_PIECE):
                stop = min(start + WORLD_PIECE, documents)
                cut.append(InputSplit(source, start, stop, (stop - start) * WORLD_BYTES, reading))
        elif source.format == "stream":
            cut += [
                InputSplit(source, i, i + 1, source.bytes // source.num_shards, reading)
                for i in range(source.num_shards)
            ]
        elif source.joins_rows:
            cut.append(InputSplit(source, 0, -1, source.bytes, reading))  # a document may go on in any next row
        elif source.format in ("parquet", "arrow") and source.compression is None:
            cut += row_group_splits(source, size, reading)
        elif (
            source.compression
            or source.format in ("csv", "tsv")
            or (source.format == "txt" and reading.sequential_only)
        ):
            cut.append(InputSplit(source, 0, -1, source.bytes, reading))  # can only be read from its beginning
        else:
            for start in range(0, source.bytes, size) or [0]:
                stop = min(start + size, source.bytes)
                cut.append(InputSplit(source, start, stop, stop - start, reading))
    return cut


def row_group_splits(source: Source, size: int, reading: ReadOptions) -> list[InputSplit]:
    """Runs of row groups (parquet) or record batches (arrow) of about `size` bytes."""
    found: list[InputSplit] = []
    start = weight = 0
    sizes = group_sizes(source, reading.text_column)
    for i, group in enumerate(sizes):
        weight += group
        if weight >= size or i == len(sizes) - 1:
            found.append(InputSplit(source, start, i + 1, weight, reading))
            start, weight = i + 1, 0
    return found


def prefetch_footers(sources: Sequence[Source]) -> None:
    """Fetch the footers of parquet files that are elsewhere, several at a time; they are kept."""
    sources = [source for source in sources if source.is_remote and source.format == "parquet"]
    progress = console.Progress("looking at files", len(sources), of_bytes=False)
    with ThreadPoolExecutor(8) as threads:
        for i, _ in enumerate(threads.map(footer, sources), start=1):
            progress.update(i)
    progress.end()
