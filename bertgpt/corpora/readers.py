"""Readers: a piece of a source to batches of documents, each document as its UTF-8 bytes.

txt is split at blank lines, at a separator or not at all; jsonl, csv, parquet and arrow have a text column. What is
wrong with the data is an error with its place, or with `on_error` it is skipped or replaced, and counted.
"""

import io
import json
import mmap
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from bertgpt.corpora.sources import Piece, Source
from bertgpt.errors import BertGPTError, did_you_mean

BATCH_BYTES, BLOCK_BYTES = 4_000_000, 8_000_000
BLANK_LINES = re.compile(rb"(?:[ \t]*\r?\n){2,}")
BOM = b"\xef\xbb\xbf"
SPACES = frozenset(b"\t\n\v\f\r\x1c\x1d\x1e\x1f \xc2\xe1\xe2\xe3")  # the first bytes of what is white space

Places = Callable[[int], str]  # where document i of a chunk stands: FILE:LINE, or as near as can be said


@dataclass(frozen=True)
class Chunk:
    """Some documents as they stand in a source; None where the column holds no text."""

    documents: list[bytes | None]
    place: Places


class Policy:
    """What to do with bad data, and how much of it there was."""

    def __init__(self, on_error: str) -> None:
        self.on_error = on_error
        self.counts: Counter[str] = Counter()

    def bad(self, what: str, error: BertGPTError) -> None:
        """Count something that is left out, or stop."""
        if self.on_error == "stop":
            error.hint = error.hint or "--on-error skip leaves such documents out and counts them"
            raise error
        self.counts[what] += 1


def read(piece: Piece, policy: Policy) -> Iterator[list[bytes]]:
    """The documents of a piece that hold any text, in batches of a few megabytes."""
    batch: list[bytes] = []
    size = 0
    for chunk in chunks(piece, policy):
        good = sound(chunk, piece.reading.max_doc_bytes) or checked(chunk, piece, policy)
        batch += good
        size += sum(map(len, good))
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def chunks(piece: Piece, policy: Policy) -> Iterator[Chunk]:
    """The documents as they stand there."""
    try:
        yield from READERS[piece.source.format](piece, policy)
    except (OSError, EOFError, ValueError) as error:  # pyarrow's errors are among them
        raise unreadable(piece.source, error) from None


def sound(chunk: Chunk, longest: int) -> list[bytes] | None:
    """The documents, if there is nothing wrong with any of them, which is found out for all of them at once."""
    documents = chunk.documents
    if not documents or not all(documents):
        return None
    whole: list[bytes] = documents  # type: ignore[assignment]
    if max(map(len, whole)) > longest:
        return None
    try:
        b"\n".join(whole).decode()  # what is wrong with a part is wrong with the whole, and the other way round
    except UnicodeDecodeError:
        return None
    blank = any(document[0] in SPACES and document.decode().isspace() for document in whole)
    return None if blank else whole


def checked(chunk: Chunk, piece: Piece, policy: Policy) -> list[bytes]:
    """The same one by one: leave out, or refuse, what is no text, too long or not UTF-8; drop what is blank."""
    longest = piece.reading.max_doc_bytes
    good: list[bytes] = []
    for i, document in enumerate(chunk.documents):
        if document is None:
            error = BertGPTError("BG303", f"the column {piece.reading.text_column} holds no text", path=chunk.place(i))
            policy.bad("no_text", error)
            continue
        if len(document) > longest:
            cause = f"{len(document):,} bytes, at most {longest:,} are taken (--max-doc-bytes)"
            policy.bad("too_long", BertGPTError("BG312", "a document is too long", path=chunk.place(i), cause=cause))
            continue
        try:
            text = document.decode()
        except UnicodeDecodeError as error:
            cause = f"{error.reason} at byte {error.start}"
            policy.bad("bad_utf8", BertGPTError("BG301", "a text is not UTF-8", path=chunk.place(i), cause=cause))
            if policy.on_error == "skip":
                continue
            text = document.decode(errors="replace")
        if text.isspace() or not text:
            policy.counts["empty"] += 1
            continue
        good.append(text.encode())
    return good


def unreadable(source: Source, error: Exception) -> BertGPTError:
    """A file that breaks off, or is not what its name says."""
    return BertGPTError("BG313", "this file cannot be read", path=source.path, cause=str(error).split("\n")[0][:200])


# --------------------------------------------------------------------------------------------- plain text


def open_bytes(source: Source) -> Any:
    """The bytes of a file, decompressed."""
    if source.compression is None:
        return Path(source.path).open("rb")
    import pyarrow as pa

    return pa.CompressedInputStream(pa.OSFile(source.path, "rb"), source.compression)


def txt(piece: Piece, policy: Policy) -> Iterator[Chunk]:
    """Documents of a text file. One belongs to the piece in which it begins."""
    source = piece.source
    if source.bytes == 0:
        return
    if source.compression or piece.stop < 0:
        whole = open_bytes(source).read()
        yield from grouped(split(whole, piece, 0, len(whole)), source)
        return
    with Path(source.path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield from grouped(split(content, piece, piece.start, piece.stop), source)


def grouped(found: Iterator[tuple[bytes, int]], source: Source) -> Iterator[Chunk]:
    """Documents with their places in chunks of a thousand."""
    while some := list(islice(found, 1000)):
        places = [f"{source.path}, byte {place}" for _, place in some]
        yield Chunk([document for document, _ in some], places.__getitem__)


def unescaped(separator: str) -> bytes:
    """A separator as typed: \\n and \\t mean what they say."""
    return separator.replace("\\n", "\n").replace("\\t", "\t").encode()


def split(content: Any, piece: Piece, start: int, stop: int) -> Iterator[tuple[bytes, int]]:
    """The documents that begin between `start` and `stop`, and where."""
    refuse_utf16(content[:2], piece.source)
    first = len(BOM) if content[: len(BOM)] == BOM else 0
    given = piece.reading.separator
    if given is None and piece.reading.txt_documents == "file":
        yield content[first:], first
        return
    separator = BLANK_LINES if given is None else re.compile(re.escape(unescaped(given)))
    at = first
    if start > 0:  # a document begins after a separator, which may itself begin before this piece
        before = start
        while before > 0 and content[before - 1 : before] in (b" ", b"\t", b"\r", b"\n"):
            before -= 1
        width = 0 if given is None else len(unescaped(given)) - 1
        ends = (match.end() for match in separator.finditer(content, max(0, min(before, start - width))))
        at = next((end for end in ends if end >= start), stop)
    while at < stop:
        match = separator.search(content, at)
        end = match.start() if match else len(content)
        if end > at:
            yield content[at:end], at
        at = match.end() if match else len(content)


def refuse_utf16(first: bytes, source: Source) -> None:
    """Text in UTF-16 would pass as text full of NULs."""
    if first in (b"\xff\xfe", b"\xfe\xff"):
        raise BertGPTError(
            "BG311",
            "this looks like UTF-16",
            path=source.path,
            hint=f"iconv -f UTF-16 -t UTF-8 {source.name} > utf8.txt",
        )


# --------------------------------------------------------------------------------------------------- jsonl


def jsonl(piece: Piece, policy: Policy) -> Iterator[Chunk]:
    """One JSON object a line. Blocks of lines are read at once; a block with something odd in it line by line."""
    line = 1 if piece.start == 0 else None
    for block, offset in line_blocks(piece):
        column = whole_block(block, piece.reading.text_column)
        if column is not None:
            yield Chunk(column, partial(place_of_line, piece.source, block, offset, line))
        else:
            yield single_lines(block, offset, line, piece, policy)
        line = None if line is None else line + block.count(b"\n")


def place_of_line(source: Source, block: bytes, offset: int, first: int | None, i: int) -> str:
    """FILE:LINE where lines were counted from the beginning of the file, else FILE and a byte."""
    if first is not None:
        return f"{source.path}:{first + i}"
    return f"{source.path}, byte {offset + sum(map(len, block.splitlines(keepends=True)[:i]))}"


def line_blocks(piece: Piece) -> Iterator[tuple[bytes, int]]:
    """Blocks of whole lines that begin within the piece, with their place in the file."""
    with open_bytes(piece.source) as file:
        at = piece.start
        if at > 0:
            file.seek(at - 1)
            at += len(file.readline()) - 1  # the line that goes on here began in the piece before
        else:
            refuse_utf16(file.read(2), piece.source)
            file.close()
        if at == 0:
            file = open_bytes(piece.source)
        while piece.stop < 0 or at < piece.stop:
            size = BLOCK_BYTES if piece.stop < 0 else min(BLOCK_BYTES, piece.stop - at)
            block = file.read(size)
            if not block:
                return
            if block[-1:] != b"\n":
                block += rest_of_line(file)
            yield (block[len(BOM) :] if at == 0 and block[: len(BOM)] == BOM else block), at
            at += len(block)


def rest_of_line(file: Any) -> bytes:
    """Up to the end of the line; pyarrow's streams have no readline."""
    if isinstance(file, io.BufferedReader):
        return file.readline()
    parts = []
    while part := file.read(1):
        parts.append(part)
        if part == b"\n":
            break
    return b"".join(parts)


def whole_block(block: bytes, column: str) -> list[bytes | None] | None:
    """The text column of a block of lines; None where it must be looked at line by line."""
    import pyarrow as pa
    import pyarrow.json as pj

    try:
        table = pj.read_json(
            io.BytesIO(block),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(block) + 1),
            parse_options=pj.ParseOptions(
                explicit_schema=pa.schema([(column, pa.string())]), unexpected_field_behavior="ignore"
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    lines = block.count(b"\n") + (block[-1:] != b"\n")
    texts = table[column]
    if table.num_rows != lines or texts.null_count:
        return None
    found: list[bytes | None] = texts.cast(pa.binary()).to_pylist()
    return found


def single_lines(block: bytes, offset: int, first: int | None, piece: Piece, policy: Policy) -> Chunk:
    """The same line by line, with the place of whatever is wrong."""
    column = piece.reading.text_column
    documents: list[bytes | None] = []
    places: list[str] = []
    for i, line in enumerate(block.split(b"\n")):
        if not line.strip():
            continue
        place = place_of_line(piece.source, block, offset, first, i)
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("this is no object")
        except ValueError as error:
            excerpt = line[:80].decode(errors="replace").rstrip()
            policy.bad(
                "bad_lines", BertGPTError("BG302", f"a line is not JSON: {excerpt}", path=place, cause=str(error))
            )
            continue
        if column not in row:
            policy.bad("no_text", missing_column(column, row, place))
            continue
        text = row[column]
        documents.append(text.encode(errors="surrogatepass") if isinstance(text, str) else None)
        places.append(place)
    return Chunk(documents, places.__getitem__)


def missing_column(column: str, columns: Iterable[str], place: str) -> BertGPTError:
    """The text column is not there."""
    names = [str(name) for name in columns]
    return BertGPTError(
        "BG212",
        f"there is no column {column}",
        path=place,
        cause=f"the columns are {', '.join(names)}",
        hint=did_you_mean(column, names) or "name one with --text-column",
    )


# ------------------------------------------------------------------------------------- csv, parquet, arrow


def table_chunks(batches: Iterable[Any], column: str, place: str) -> Iterator[Chunk]:
    """The text column of record batches; rows are counted from 0 within what is read."""
    import pyarrow as pa

    first = 0
    for batch in batches:
        texts = batch.column(batch.schema.get_field_index(column))
        if pa.types.is_dictionary(texts.type):
            texts = texts.dictionary_decode()
        if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type) or is_binary(texts.type)):
            raise BertGPTError("BG303", f"the column {column} holds {texts.type}, not text", path=place)
        wide = pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)
        documents = texts.cast(pa.large_binary() if wide else pa.binary()).to_pylist()
        yield Chunk(documents, partial(place_of_row, place, first))
        first += len(documents)


def place_of_row(place: str, first: int, i: int) -> str:
    """A row of a table."""
    return f"{place}, row {first + i}"


def is_binary(kind: Any) -> bool:
    """Whether a column holds bytes, which may be text."""
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def csv(piece: Piece, policy: Policy) -> Iterator[Chunk]:
    """A table with a header; every cell is text."""
    import pyarrow as pa
    import pyarrow.csv as pc

    with open_bytes(piece.source) as file:
        refuse_utf16(file.read(2), piece.source)
    column = piece.reading.text_column
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


def parquet(piece: Piece, policy: Policy) -> Iterator[Chunk]:
    """Row groups `start` to `stop`."""
    import pyarrow.parquet as pq

    column = piece.reading.text_column
    file = pq.ParquetFile(piece.source.path, memory_map=True)
    groups = list(range(piece.start, piece.stop if piece.stop >= 0 else file.num_row_groups))
    rows = sum(file.metadata.row_group(group).num_rows for group in groups)
    size = max(1, min(rows, BATCH_BYTES * rows // max(piece.weight, 1)))  # rows of a batch of the wanted size
    batches = file.iter_batches(batch_size=size, row_groups=groups, columns=[column], use_threads=False)
    yield from table_chunks(batches, column, f"{piece.source.path}, row groups from {piece.start}")


def arrow(piece: Piece, policy: Policy) -> Iterator[Chunk]:
    """Record batches `start` to `stop` of an IPC file; a stream is read whole."""
    import pyarrow as pa

    column = piece.reading.text_column
    with pa.memory_map(piece.source.path) as content:
        reader = open_arrow(content)
        if isinstance(reader, pa.ipc.RecordBatchStreamReader):
            batches: Iterable[Any] = reader
        else:
            batches = (reader.get_batch(i) for i in range(piece.start, piece.stop))
        yield from table_chunks(batches, column, f"{piece.source.path}, batches from {piece.start}")


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
    import pyarrow.parquet as pq

    try:
        if source.format == "parquet":
            metadata = pq.read_metadata(source.path)
            names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
            at = names.index(column) if column in names else -1
            return [
                metadata.row_group(i).column(max(at, 0)).total_uncompressed_size for i in range(metadata.num_row_groups)
            ]
        with pa.memory_map(source.path) as content:
            reader = open_arrow(content)
            if isinstance(reader, pa.ipc.RecordBatchStreamReader):
                return [source.bytes]
            return [source.bytes // reader.num_record_batches] * reader.num_record_batches
    except (OSError, ValueError) as error:
        raise unreadable(source, error) from None


def columns_of(source: Source) -> list[str] | None:
    """The columns of a file, found before any work; None where it has none, or cannot say before it is read."""
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    try:
        if source.format == "parquet":
            return list(pq.read_schema(source.path).names)
        if source.format == "arrow":
            with pa.memory_map(source.path) as content:
                return list(open_arrow(content).schema.names)
        if source.format in ("csv", "tsv") and source.bytes:
            delimiter = "\t" if source.format == "tsv" else ","
            return list(
                pc.open_csv(open_bytes(source), parse_options=pc.ParseOptions(delimiter=delimiter)).schema.names
            )
        if source.format == "jsonl" and source.bytes:
            block, _ = next(line_blocks(Piece(source, 0, -1, 0)))
            row = json.loads(block.split(b"\n", 1)[0])
            return list(row) if isinstance(row, dict) else None
    except (ValueError, OSError, StopIteration):
        return None  # the reader will say what is wrong, with its place
    return None


# ------------------------------------------------------------------------------------------------ tinyworld


def tinyworld(piece: Piece, policy: Policy) -> Iterator[Chunk]:
    """Documents `start` to `stop` of the built-in world."""
    from bertgpt.corpora.tinyworld import World

    documents = World(piece.source.seed).documents(piece.start, piece.stop)
    while some := [document.text.encode() for document in islice(documents, 2000)]:
        yield Chunk(list(some), lambda i: piece.source.name)


READERS = {
    "txt": txt, "jsonl": jsonl, "csv": csv, "tsv": csv, "parquet": parquet, "arrow": arrow, "tinyworld": tinyworld,
}  # fmt: skip
