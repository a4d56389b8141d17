"""csv, parquet and arrow: tables with a text column."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from bertgpt.data.documents import DocumentBatch
from bertgpt.data.sources.chunks import BadDataPolicy, Chunk, Locator, open_bytes, reject_utf16, unreadable_error
from bertgpt.data.sources.http import coalesce_ranges
from bertgpt.data.sources.remote import open_source
from bertgpt.data.sources.source import InputSplit, Source
from bertgpt.utils.files import cache_folder, evict_oldest, write_atomic

FOOTER_BYTES = 200_000_000  # of footers that are kept, at most
BATCH_BYTES, BLOCK_BYTES = 4_000_000, 8_000_000


def table_chunks(batches: Iterable[Any], column: str, place: str) -> Iterator[Chunk]:
    """The text column of record batches; rows are counted from 0 within what is read."""
    import pyarrow as pa

    first = 0
    for batch in batches:
        texts = batch.column(batch.schema.get_field_index(column))
        if pa.types.is_dictionary(texts.type):
            texts = texts.dictionary_decode()
        yield chunk_of(texts, partial(place_of_row, place, first))
        first += len(texts)


def place_of_row(place: str, first: int, i: int) -> str:
    """A row of a table."""
    return f"{place}, row {first + i}"


def chunk_of(column: Any, place: Locator) -> Chunk:
    """A column as documents; one that holds no text is as good as nulls."""
    import pyarrow as pa

    kind = column.type
    if kind in (pa.string_view(), pa.binary_view()) or pa.types.is_fixed_size_binary(kind):
        column = column.cast(pa.large_string() if kind == pa.string_view() else pa.large_binary())
    elif kind not in (pa.string(), pa.binary(), pa.large_string(), pa.large_binary()):
        return Chunk.of([None] * len(column), place)
    if column.null_count:
        absent = frozenset(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist())
        return Chunk(DocumentBatch.of_column(column.cast(pa.large_binary()).fill_null(b"")), place, absent)
    return Chunk(DocumentBatch.of_column(column), place)


def csv(piece: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """A table with a header; every cell is text."""
    import pyarrow as pa
    import pyarrow.csv as pc

    with open_bytes(piece.source) as file:
        first = file.read(2)
    reject_utf16(first, piece.source)
    if not first:
        return
    column = piece.read_options.text_column
    skipped = 0

    def invalid(row: Any) -> str:
        nonlocal skipped
        if policy.on_error == "stop":
            return "error"
        skipped += 1
        return "skip"

    reader = pc.open_csv(
        open_bytes(piece.source),
        read_options=pc.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
        parse_options=pc.ParseOptions(
            delimiter="\t" if piece.source.format == "tsv" else ",",
            newlines_in_values=True,
            invalid_row_handler=invalid,
        ),
        convert_options=pc.ConvertOptions(
            include_columns=[column], column_types={column: pa.binary()}, strings_can_be_null=False
        ),
    )
    yield from table_chunks(reader, column, piece.source.path)
    policy.counts["bad_lines"] += skipped


def parquet(piece: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """Row groups `start` to `stop`."""
    import pyarrow.parquet as pq

    column = piece.read_options.text_column
    metadata = footer(piece.source)
    groups = list(range(piece.start, piece.stop if piece.stop >= 0 else metadata.num_row_groups))
    rows = sum(metadata.row_group(group).num_rows for group in groups)
    size = max(1, min(rows, BATCH_BYTES * rows // max(piece.approx_bytes, 1)))  # rows of a batch of the wanted size
    with content_of(piece.source, coalesce_ranges(chunks_of(metadata, groups, column))) as content:
        file = pq.ParquetFile(content, metadata=metadata)
        batches = file.iter_batches(batch_size=size, row_groups=groups, columns=[column], use_threads=False)
        yield from table_chunks(batches, column, f"{piece.source.path}, row groups from {piece.start}")


def chunks_of(metadata: Any, groups: Sequence[int], column: str) -> Iterator[tuple[int, int]]:
    """Where the chunks of a column are in the file, one for each row group."""
    at = number_of(column, metadata)
    for chunk in (metadata.row_group(group).column(at) for group in groups):
        begin = min(chunk.dictionary_page_offset or chunk.data_page_offset, chunk.data_page_offset)
        yield begin, begin + chunk.total_compressed_size


def number_of(column: str, metadata: Any) -> int:
    """Which column of a parquet file has this name; the first, if none has: then reading says what is wrong."""
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    return names.index(column) if column in names else 0


def footer(source: Source) -> Any:
    """The footer of a parquet file; of one that is elsewhere it is kept, since every piece of the file needs it."""
    import pyarrow.parquet as pq

    if source.compression is not None:
        return pq.read_metadata(content_of(source))
    if not source.is_remote:
        return pq.read_metadata(source.path)
    folder = cache_folder() / "footers"
    kept = folder / f"{hashlib.sha256(f'{source.path} {source.revision}'.encode()).hexdigest()[:32]}.parquet"
    try:
        return pq.read_metadata(kept)
    except (OSError, ValueError):
        metadata = pq.read_metadata(open_source(source))
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        evict_oldest(folder, FOOTER_BYTES)
        write_atomic(kept, lambda aside: metadata.write_metadata_file(str(aside)))
    return metadata


def arrow(piece: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """Record batches `start` to `stop` of an IPC file; a stream is read whole."""
    import pyarrow as pa

    column = piece.read_options.text_column
    with content_of(piece.source) as content:
        reader = open_arrow(content)
        if isinstance(reader, pa.ipc.RecordBatchStreamReader):
            batches: Iterable[Any] = reader
        else:
            stop = piece.stop if piece.stop >= 0 else reader.num_record_batches
            batches = (reader.get_batch(i) for i in range(piece.start, stop))
        yield from table_chunks(batches, column, f"{piece.source.path}, batches from {piece.start}")


def content_of(source: Source, stretches: Sequence[tuple[int, int]] = ()) -> Any:
    """A file that can be read anywhere: mapped, fetched part by part, or decompressed into memory."""
    import pyarrow as pa

    if source.compression is not None:
        with open_bytes(source) as file:
            return pa.BufferReader(file.read())
    return pa.PythonFile(open_source(source, stretches)) if source.is_remote else pa.memory_map(source.path)


def open_arrow(content: Any) -> Any:
    """An IPC file, or an IPC stream that was given the same ending."""
    import pyarrow as pa

    try:
        return pa.ipc.open_file(content)
    except pa.ArrowInvalid:
        content.seek(0)
        return pa.ipc.open_stream(content)


def group_sizes(source: Source, column: str) -> list[int]:
    """The bytes of the text column in each row group or record batch."""
    import pyarrow as pa

    try:
        if source.format == "parquet":
            metadata = footer(source)
            at = number_of(column, metadata)
            return [metadata.row_group(i).column(at).total_uncompressed_size for i in range(metadata.num_row_groups)]
        with content_of(source) as content:
            reader = open_arrow(content)
            if isinstance(reader, pa.ipc.RecordBatchStreamReader):
                return [source.bytes]
            batches = reader.num_record_batches
            return [source.bytes // max(1, batches)] * batches
    except (OSError, ValueError) as error:
        raise unreadable_error(source, error) from None
