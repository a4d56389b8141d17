"""Input splits: cut the sources into parts that one task each reads.

Input splits depend on the source alone: not on the order in which files are named, on their folder, or on the number of
workers.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from bertgpt.data.sources.source import InputSplit, ReadOptions, Source
from bertgpt.data.sources.tabular import group_sizes, read_footer
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError

MIN_SPLIT_BYTES, MAX_SPLIT_BYTES, TARGET_SPLITS = 1_000_000, 128_000_000, 64
COMPRESSION_RATIO = 3  # bytes of text per byte of gzip or zstd, about
TINYWORLD_DOC_BYTES, TINYWORLD_SPLIT_DOCS = 330, 8192  # mean size of a tinyworld document, and documents per split


def input_splits(
    sources: Sequence[Source], read_options: ReadOptions, max_documents: int | None = None
) -> list[InputSplit]:
    """Cut all sources into splits, in canonical order; `max_documents` bounds tinyworld, which is infinite."""
    total = sum(source.bytes for source in sources)
    size = min(max(total // TARGET_SPLITS, MIN_SPLIT_BYTES), MAX_SPLIT_BYTES)
    return [s for source in sources for s in splits_of_source(source, size, read_options, max_documents)]


def splits_of_source(
    source: Source, size: int, read_options: ReadOptions, max_documents: int | None
) -> Iterator[InputSplit]:
    """The splits of one source, of about `size` bytes each."""
    sequential = source.compression or source.format in ("csv", "tsv")  # can only be read from the start
    sequential = sequential or (source.format == "txt" and read_options.sequential_only)
    if source.format == "tinyworld":
        if max_documents is None:
            raise BertGPTError("BG203", "tinyworld is infinite; set --limit-docs")
        for start in range(0, max_documents, TINYWORLD_SPLIT_DOCS):
            stop = min(start + TINYWORLD_SPLIT_DOCS, max_documents)
            yield InputSplit(source, start, stop, (stop - start) * TINYWORLD_DOC_BYTES, read_options)
    elif source.format == "stream":
        for i in range(source.num_shards):
            yield InputSplit(source, i, i + 1, source.bytes // source.num_shards, read_options)
    elif sequential or source.joins_rows:  # where rows are joined, a document may continue in any next row
        approx_bytes = source.bytes * (COMPRESSION_RATIO if source.compression else 1)
        yield InputSplit(source, 0, -1, approx_bytes, read_options)
    elif source.format in ("parquet", "arrow"):
        yield from row_group_splits(source, size, read_options)
    else:
        for start in range(0, source.bytes, size) or [0]:
            stop = min(start + size, source.bytes)
            yield InputSplit(source, start, stop, stop - start, read_options)


def row_group_splits(source: Source, size: int, read_options: ReadOptions) -> Iterator[InputSplit]:
    """Consecutive row groups (parquet) or record batches (arrow) of about `size` bytes of text."""
    start = num_bytes = 0
    sizes = group_sizes(source, read_options.text_column)
    for i, group_bytes in enumerate(sizes):
        num_bytes += group_bytes
        if num_bytes >= size or i == len(sizes) - 1:
            yield InputSplit(source, start, i + 1, num_bytes, read_options)
            start, num_bytes = i + 1, 0


def prefetch_footers(sources: Sequence[Source]) -> None:
    """Fetch the footers of remote parquet files, several at a time, into the cache."""
    sources = [source for source in sources if source.is_remote and source.format == "parquet"]
    progress = console.Progress("reading footers", len(sources), in_bytes=False)
    with ThreadPoolExecutor(8) as threads:
        for i, _ in enumerate(threads.map(read_footer, sources), start=1):
            progress.update(i)
    progress.end()
