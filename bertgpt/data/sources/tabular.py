"""csv, tsv, parquet and arrow readers: tables with a text column."""

import codecs
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from bertgpt.data.documents import DocumentBatch
from bertgpt.data.sources.chunks import BadDataPolicy, Chunk, Locator, open_bytes, reject_utf16
from bertgpt.data.sources.http import coalesce_ranges
from bertgpt.data.sources.remote import open_source
from bertgpt.data.sources.source import InputSplit, Source, unreadable_error
from bertgpt.utils.files import atomic_write, cache_folder, evict_oldest

FOOTER_CACHE_BYTES = 200_000_000
BATCH_BYTES, BLOCK_BYTES = 4_000_000, 8_000_000
BATCH_ROWS = 1024  # values of a dictionary may be repeated in every row
SHORT_ROW = 64  # bytes; a column with less per row is read as a dictionary, since it may be few values, repeated
MAX_DECOMPRESSED = 1_000_000_000  # of a compressed file that is read at random


def table_chunks(batches: Iterable[Any], column: str, location: str) -> Iterator[Chunk]:
    """The text column of record batches; rows are counted from 0 within what is read."""
    first_row = 0
    for batch in batches:
        for texts in plain_slices(batch.column(batch.schema.get_field_index(column))):
            yield column_chunk(texts, partial(row_location, location, first_row))
            first_row += len(texts)


def plain_slices(column: Any) -> Iterator[Any]:
    """The column itself or, of a dictionary, slices of a few megabytes: a long value may be repeated in all rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if not pa.types.is_dictionary(kind):
        yield column
        return
    values = kind.value_type
    is_text = any(test(values) for test in (pa.types.is_binary, pa.types.is_large_binary,
                                            pa.types.is_string, pa.types.is_large_string))  # fmt: skip
    if not is_text:
        yield pa.nulls(len(column))  # no text in any row
        return
    sizes = pc.binary_length(column.dictionary).take(column.indices).fill_null(0).to_numpy(zero_copy_only=False)
    slice_numbers = sizes.cumsum(dtype=np.int64) // BATCH_BYTES
    for rows in np.split(np.arange(len(column)), np.flatnonzero(np.diff(slice_numbers)) + 1):
        yield column.slice(rows[0], len(rows)).dictionary_decode() if len(rows) else column.dictionary.slice(0, 0)


def validated(batch: Any, column: str) -> Any:
    """The record batch with this column alone, whose offsets and indices are checked: they come from a file."""
    import pyarrow as pa

    texts = batch.column(batch.schema.get_field_index(column))
    raw = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(texts.type)
    texts = texts if raw is None else texts.view(raw)  # UTF-8 is checked later, document by document
    texts.validate(full=True)
    return pa.RecordBatch.from_arrays([texts], [column])


def row_location(location: str, first_row: int, i: int) -> str:
    """The location of row i of a batch."""
    return f"{location}, row {first_row + i}"


def column_chunk(column: Any, locate: Locator) -> Chunk:
    """A column as documents; all are missing if it is not a column of text or bytes."""
    import pyarrow as pa

    kind = column.type
    if kind in (pa.string_view(), pa.binary_view()) or pa.types.is_fixed_size_binary(kind):
        column = column.cast(pa.large_string() if kind == pa.string_view() else pa.large_binary())
    elif kind not in (pa.string(), pa.binary(), pa.large_string(), pa.large_binary()):
        return Chunk.from_list([None] * len(column), locate)
    if column.null_count:
        missing = frozenset(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist())
        documents = DocumentBatch.from_arrow(column.cast(pa.large_binary()).fill_null(b""))
        return Chunk(documents, locate, missing)
    return Chunk(DocumentBatch.from_arrow(column), locate)


# ------------------------------------------------------------------------------------------------------ csv and tsv


def read_csv(input_split: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """A csv or tsv file with a header; every cell is text."""
    import pyarrow as pa
    import pyarrow.csv as pc

    source = input_split.source
    with open_bytes(source) as file:
        first_bytes = file.read(2)
    reject_utf16(first_bytes, source)
    if not first_bytes:
        return
    skipped = 0

    def skip_row(_: Any) -> str:
        nonlocal skipped
        skipped += 1
        return "skip"

    stops = policy.on_error == "stop"
    encoding = "utf8" if stops or is_utf8(source) else "latin1"  # bytes as characters: Arrow decodes rows it skips
    column = input_split.read_options.text_column.encode().decode(encoding)
    reader = pc.open_csv(
        open_bytes(source),
        read_options=pc.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, encoding=encoding),
        parse_options=pc.ParseOptions(
            delimiter="\t" if source.format == "tsv" else ",",
            newlines_in_values=True,
            invalid_row_handler=None if stops else skip_row,
        ),
        convert_options=pc.ConvertOptions(
            include_columns=[column], column_types={column: pa.binary()}, strings_can_be_null=False
        ),
    )
    for chunk in table_chunks(reader, column, source.path):
        yield chunk if encoding == "utf8" else original_bytes(chunk)
    policy.counts["bad_lines"] += skipped


def is_utf8(source: Source) -> bool:
    """Whether the whole file is UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_bytes(source) as file:
        try:
            while block := file.read(BLOCK_BYTES):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def original_bytes(chunk: Chunk) -> Chunk:
    """The documents of a file that was read as Latin-1, as its bytes."""
    return Chunk.from_list([document.decode().encode("latin1") for document in chunk.documents.documents], chunk.locate)


# ---------------------------------------------------------------------------------------------------------- parquet


def read_parquet(input_split: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """Row groups `start` to `stop` of a parquet file."""
    import pyarrow.parquet as pq

    column = input_split.read_options.text_column
    metadata = read_footer(input_split.source)
    groups = list(range(input_split.start, input_split.stop if input_split.stop >= 0 else metadata.num_row_groups))
    rows, index = sum(metadata.row_group(group).num_rows for group in groups), column_index(column, metadata)
    num_bytes = sum(metadata.row_group(group).column(index).total_uncompressed_size for group in groups)
    batch_size = max(1, min(rows, BATCH_ROWS, BATCH_BYTES * rows // max(num_bytes, 1)))
    leaf = metadata.schema.column(index)
    is_text = leaf.path == column and leaf.physical_type == "BYTE_ARRAY"
    short = [column] if is_text and num_bytes < SHORT_ROW * rows else None
    ranges = coalesce_ranges(column_chunk_ranges(metadata, groups, column))
    with open_seekable(input_split.source, ranges) as content:
        file = pq.ParquetFile(content, metadata=metadata, read_dictionary=short)
        batches = file.iter_batches(batch_size=batch_size, row_groups=groups, columns=[column], use_threads=False)
        yield from table_chunks(batches, column, f"{input_split.source.path}, row groups from {input_split.start}")


def column_chunk_ranges(metadata: Any, groups: Sequence[int], column: str) -> Iterator[tuple[int, int]]:
    """The byte range of a column in the file, for each row group."""
    index = column_index(column, metadata)
    for chunk in (metadata.row_group(group).column(index) for group in groups):
        start = min(chunk.dictionary_page_offset or chunk.data_page_offset, chunk.data_page_offset)
        yield start, start + chunk.total_compressed_size


def column_index(column: str, metadata: Any) -> int:
    """Index of a column of a parquet file; 0 if there is no such column, which reading it then reports."""
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    return names.index(column) if column in names else 0


def read_footer(source: Source) -> Any:
    """The footer (metadata) of a parquet file; that of a remote file is cached, since every split needs it."""
    import pyarrow.parquet as pq

    if source.compression is not None:
        return pq.read_metadata(open_seekable(source))
    if not source.is_remote:
        return pq.read_metadata(source.path)
    folder = cache_folder() / "footers"
    cached = folder / f"{hashlib.sha256(f'{source.path} {source.revision}'.encode()).hexdigest()[:32]}.parquet"
    try:
        return pq.read_metadata(cached)
    except (OSError, ValueError):
        metadata = pq.read_metadata(open_source(source))
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        evict_oldest(folder, FOOTER_CACHE_BYTES)
        with atomic_write(cached) as temporary:
            metadata.write_metadata_file(str(temporary))
    return metadata


# ------------------------------------------------------------------------------------------------------------ arrow


def read_arrow(input_split: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """Record batches `start` to `stop` of an Arrow IPC file; all of an IPC stream."""
    import pyarrow as pa

    column = input_split.read_options.text_column
    with open_seekable(input_split.source) as content:
        reader = open_arrow(content)
        if isinstance(reader, pa.ipc.RecordBatchStreamReader):
            batches: Iterable[Any] = iter(reader)
        else:
            stop = input_split.stop if input_split.stop >= 0 else reader.num_record_batches
            batches = (reader.get_batch(i) for i in range(input_split.start, stop))
        batches = (validated(batch, column) for batch in batches)
        yield from table_chunks(batches, column, f"{input_split.source.path}, batches from {input_split.start}")


def open_seekable(source: Source, ranges: Sequence[tuple[int, int]] = ()) -> Any:
    """Open a file for random access: memory-mapped, fetched by ranges, or decompressed into memory."""
    import pyarrow as pa

    if source.compression is not None:
        with open_bytes(source) as file:
            content = file.read(MAX_DECOMPRESSED + 1)
        if len(content) > MAX_DECOMPRESSED:
            raise ValueError(f"more than {MAX_DECOMPRESSED:,} bytes when decompressed: decompress it first")
        return pa.BufferReader(content)
    return pa.PythonFile(open_source(source, ranges)) if source.is_remote else pa.memory_map(source.path)


def open_arrow(content: Any) -> Any:
    """Open an Arrow IPC file, or an IPC stream with the same extension."""
    import pyarrow as pa

    try:
        return pa.ipc.open_file(content)
    except pa.ArrowInvalid:
        content.seek(0)
        return pa.ipc.open_stream(content)


def group_sizes(source: Source, column: str) -> list[int]:
    """Bytes of the text column in each row group (parquet) or record batch (arrow)."""
    import pyarrow as pa

    try:
        if source.format == "parquet":
            metadata = read_footer(source)
            index = column_index(column, metadata)
            groups = range(metadata.num_row_groups)
            return [metadata.row_group(i).column(index).total_uncompressed_size for i in groups]
        with open_seekable(source) as content:
            reader = open_arrow(content)
            if isinstance(reader, pa.ipc.RecordBatchStreamReader):
                return [source.bytes]
            num_batches = reader.num_record_batches
            return [source.bytes // max(1, num_batches)] * num_batches
    except (OSError, ValueError) as error:
        raise unreadable_error(source.path, error) from None
