"""Read documents: from an input split to batches of validated UTF-8 documents.

Bad data is an error with its location or, depending on the policy, skipped or replaced and counted.
"""

import re
from collections.abc import Iterator
from itertools import islice

from bertgpt.data.documents import DocumentBatch
from bertgpt.data.sources.chunks import BadDataPolicy, Chunk, missing_column, open_bytes
from bertgpt.data.sources.hub import parse_address, stream_dataset
from bertgpt.data.sources.source import InputSplit, Source, unreadable_error
from bertgpt.data.sources.tabular import open_arrow, read_arrow, read_csv, read_footer, read_parquet
from bertgpt.data.sources.text import line_blocks, read_jsonl, read_txt
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.json_files import parse_json

JOINED_BYTES = 4_000_000

__all__ = ["BadDataPolicy", "column_names", "missing_column", "read_documents"]


def read_documents(input_split: InputSplit, policy: BadDataPolicy) -> Iterator[DocumentBatch]:
    """The valid, non-blank documents of a split, in batches of a few megabytes."""
    chunks = join_rows(input_split, policy) if input_split.source.joins_rows else read_chunks(input_split, policy)
    for chunk in chunks:
        documents = chunk.documents
        if chunk.missing or not documents.all_valid(input_split.read_options.max_doc_bytes):
            documents = DocumentBatch.from_list(validate_documents(chunk, input_split, policy))
        if len(documents):
            yield documents


def read_chunks(input_split: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """The documents of a split as the file has them, before validation."""
    try:
        yield from READERS[input_split.source.format](input_split, policy)
    except (OSError, EOFError, ValueError) as error:  # includes pyarrow's errors
        raise unreadable_error(input_split.source.path, error) from None


def validate_documents(chunk: Chunk, input_split: InputSplit, policy: BadDataPolicy) -> list[bytes]:
    """Check documents one by one: missing, too long and not UTF-8 go to the policy; blank ones are dropped."""
    max_bytes = input_split.read_options.max_doc_bytes
    valid: list[bytes] = []
    for i, document in enumerate(chunk.documents.documents):
        if i in chunk.missing:
            message = f"no text in column {input_split.read_options.text_column}"
            policy.handle("no_text", BertGPTError("BG303", message, path=chunk.locate(i)))
            continue
        if len(document) > max_bytes:
            cause = f"more than {max_bytes:,} bytes (--max-doc-bytes)"
            policy.handle("too_long", BertGPTError("BG312", "document too long", path=chunk.locate(i), cause=cause))
            continue
        try:
            text = document.decode()
        except UnicodeDecodeError as error:
            cause = f"{error.reason} at byte {error.start}"
            policy.handle("bad_utf8", BertGPTError("BG301", "invalid UTF-8", path=chunk.locate(i), cause=cause))
            if policy.on_error == "skip":
                continue
            text = document.decode(errors="replace")
        if text.isspace() or not text:
            policy.counts["empty"] += 1
            continue
        valid.append(text.encode())
    return valid


def join_rows(input_split: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """Join rows to documents: from one row that matches `document_start` to the next, or a fixed number of rows."""
    source = input_split.source
    document_start = re.compile(source.document_start.encode())
    joiner = source.joiner.encode()
    rows: list[bytes] = []
    documents: list[bytes] = []
    for chunk in read_chunks(input_split, policy):
        for row in chunk.documents.documents:
            is_full = len(rows) == source.rows_per_document
            if rows and (document_start.fullmatch(row) if source.document_start else is_full):
                documents.append(joiner.join(rows))
                rows = []
            rows.append(row)
        if sum(map(len, documents)) > JOINED_BYTES:
            yield Chunk.from_list(documents, lambda i: source.path)
            documents = []
    yield Chunk.from_list([*documents, joiner.join(rows)], lambda i: source.path)


def read_streaming(input_split: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """Shard `start` of a dataset that only `datasets` can read, streamed row by row."""
    source = input_split.source
    repository, commit, rest = parse_address(source.path)
    subset, _, split = rest.rpartition(":")
    rows = stream_dataset(repository, commit, subset or None, split).shard(source.num_shards, input_split.start)
    column = input_split.read_options.text_column
    for batch in rows.iter(1000):
        if column not in batch:
            raise missing_column(column, batch, source.path)
        texts = [text.encode(errors="surrogatepass") if isinstance(text, str) else None for text in batch[column]]
        yield Chunk.from_list(texts, lambda i: source.path)


def read_tinyworld(input_split: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """Documents `start` to `stop` of tinyworld."""
    from bertgpt.tinyworld import World

    documents = World(input_split.source.seed).documents(input_split.start, input_split.stop)
    while batch := [document.text.encode() for document in islice(documents, 2000)]:
        yield Chunk.from_list(batch, lambda i: input_split.source.name)


def column_names(source: Source) -> list[str] | None:
    """The columns of a file, to check --text-column before any work; None if it has none or they are not yet known."""
    import pyarrow as pa
    import pyarrow.csv as pc

    try:
        if source.format == "parquet":
            return list(read_footer(source).schema.to_arrow_schema().names)
        if source.is_remote:
            return None  # the reader checks it: opening the file twice would cost a request
        if source.format == "arrow":
            with pa.memory_map(source.path) as content:
                return list(open_arrow(content).schema.names)
        if source.format in ("csv", "tsv") and source.bytes:
            options = pc.ParseOptions(delimiter="\t" if source.format == "tsv" else ",")
            return list(pc.open_csv(open_bytes(source), parse_options=options).schema.names)
        if source.format == "jsonl" and source.bytes:
            block, _ = next(line_blocks(InputSplit(source, 0, -1, 0), BadDataPolicy("skip")))
            row = parse_json(block.split(b"\n", 1)[0])
            return list(row) if isinstance(row, dict) else None
    except (ValueError, OSError, StopIteration):
        return None  # the reader reports the error with its location
    return None


READERS = {
    "txt": read_txt, "jsonl": read_jsonl, "csv": read_csv, "tsv": read_csv, "parquet": read_parquet,
    "arrow": read_arrow, "tinyworld": read_tinyworld, "stream": read_streaming,
}  # fmt: skip
