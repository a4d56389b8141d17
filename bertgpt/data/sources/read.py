"""Reading: a piece of a source to batches of documents, each document as its UTF-8 bytes.

What is wrong with the data is an error with its place, or with `on_error` it is skipped or replaced, and counted.
"""

import json
import re
from collections.abc import Iterator
from itertools import islice

from bertgpt.data.documents import DocumentBatch
from bertgpt.data.sources.chunks import BadDataPolicy, Chunk, missing_column, open_bytes, unreadable_error
from bertgpt.data.sources.hub import parse_address
from bertgpt.data.sources.hub import stream_dataset as open_stream
from bertgpt.data.sources.source import InputSplit, Source
from bertgpt.data.sources.tabular import arrow, csv, footer, open_arrow, parquet
from bertgpt.data.sources.text import jsonl, line_blocks, txt
from bertgpt.utils.errors import BertGPTError

JOINED_BYTES = 4_000_000

__all__ = ["BadDataPolicy", "columns_of", "missing_column", "read_documents"]


def read_documents(piece: InputSplit, policy: BadDataPolicy) -> Iterator[DocumentBatch]:
    """The documents of a piece that hold any text, in batches of a few megabytes."""
    found = join_rows(piece, policy) if piece.source.joins_rows else chunks(piece, policy)
    for chunk in found:
        texts = chunk.texts
        if chunk.absent or not texts.all_valid(piece.read_options.max_doc_bytes):
            texts = DocumentBatch.of(validate_documents(chunk, piece, policy))
        if len(texts):
            yield texts


def chunks(piece: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """The documents as they stand there."""
    try:
        yield from READERS[piece.source.format](piece, policy)
    except (OSError, EOFError, ValueError) as error:  # pyarrow's errors are among them
        raise unreadable_error(piece.source, error) from None


def validate_documents(chunk: Chunk, piece: InputSplit, policy: BadDataPolicy) -> list[bytes]:
    """The documents one by one: leave out, or refuse, what is no text, too long or not UTF-8; drop what is blank."""
    longest = piece.read_options.max_doc_bytes
    good: list[bytes] = []
    for i, document in enumerate(chunk.texts.documents):
        if i in chunk.absent:
            error = BertGPTError(
                "BG303", f"the column {piece.read_options.text_column} holds no text", path=chunk.place(i)
            )
            policy.handle("no_text", error)
            continue
        if len(document) > longest:
            cause = f"{len(document):,} bytes, at most {longest:,} are taken (--max-doc-bytes)"
            policy.handle("too_long", BertGPTError("BG312", "a document is too long", path=chunk.place(i), cause=cause))
            continue
        try:
            text = document.decode()
        except UnicodeDecodeError as error:
            cause = f"{error.reason} at byte {error.start}"
            policy.handle("bad_utf8", BertGPTError("BG301", "a text is not UTF-8", path=chunk.place(i), cause=cause))
            if policy.on_error == "skip":
                continue
            text = document.decode(errors="replace")
        if text.isspace() or not text:
            policy.counts["empty"] += 1
            continue
        good.append(text.encode())
    return good


def join_rows(piece: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """Rows put together to documents: from one that looks like a beginning to the next, or so many of them."""
    source = piece.source
    begins = re.compile(source.document_start.encode())
    joint = source.joiner.encode()
    rows: list[bytes] = []
    done: list[bytes] = []
    for chunk in chunks(piece, policy):
        for row in chunk.texts.documents:
            if rows and (begins.fullmatch(row) if source.document_start else len(rows) == source.rows_per_document):
                done.append(joint.join(rows))
                rows = []
            rows.append(row)
        if sum(map(len, done)) > JOINED_BYTES:
            yield Chunk.of(done, lambda i: source.path)
            done = []
    yield Chunk.of([*done, joint.join(rows)], lambda i: source.path)


def read_streaming(piece: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """A share of a dataset that only `datasets` can read; its rows come one by one."""
    source = piece.source
    repository, commit, rest = parse_address(source.path)
    subset, _, split = rest.rpartition(":")
    rows = open_stream(repository, commit, subset or None, split).shard(source.num_shards, piece.start)
    column = piece.read_options.text_column
    for batch in rows.iter(1000):
        if column not in batch:
            raise missing_column(column, batch, source.path)
        texts = [text.encode(errors="surrogatepass") if isinstance(text, str) else None for text in batch[column]]
        yield Chunk.of(texts, lambda i: source.path)


def read_tinyworld(piece: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """Documents `start` to `stop` of the built-in world."""
    from bertgpt.tinyworld import World

    documents = World(piece.source.seed).documents(piece.start, piece.stop)
    while some := [document.text.encode() for document in islice(documents, 2000)]:
        yield Chunk.of(some, lambda i: piece.source.name)


def columns_of(source: Source) -> list[str] | None:
    """The columns of a file, found before any work; None where it has none, or cannot say before it is read."""
    import pyarrow as pa
    import pyarrow.csv as pc

    try:
        if source.format == "parquet":
            return list(footer(source).schema.to_arrow_schema().names)
        if source.is_remote:
            return None  # it is said when it is read: looking into it twice takes its time
        if source.format == "arrow":
            with pa.memory_map(source.path) as content:
                return list(open_arrow(content).schema.names)
        if source.format in ("csv", "tsv") and source.bytes:
            delimiter = "\t" if source.format == "tsv" else ","
            return list(
                pc.open_csv(open_bytes(source), parse_options=pc.ParseOptions(delimiter=delimiter)).schema.names
            )
        if source.format == "jsonl" and source.bytes:
            block, _ = next(line_blocks(InputSplit(source, 0, -1, 0), BadDataPolicy("skip")))
            row = json.loads(block.split(b"\n", 1)[0])
            return list(row) if isinstance(row, dict) else None
    except (ValueError, OSError, StopIteration):
        return None  # the reader will say what is wrong, with its place
    return None


READERS = {
    "txt": txt, "jsonl": jsonl, "csv": csv, "tsv": csv, "parquet": parquet, "arrow": arrow, "tinyworld": read_tinyworld,
    "stream": read_streaming,
}  # fmt: skip
