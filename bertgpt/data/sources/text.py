"""txt and jsonl: documents found in bytes, from any byte to any other. One belongs to the piece in which it begins."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, islice
from typing import IO, Any

from bertgpt.data.documents import DocumentBatch
from bertgpt.data.sources.chunks import BOM, BadDataPolicy, Chunk, missing_column, open_bytes, reject_utf16
from bertgpt.data.sources.source import InputSplit, ReadOptions, Source
from bertgpt.utils.errors import BertGPTError

BLOCK_BYTES = 8_000_000
BLANK_LINES = re.compile(rb"\n[ \t\r\n]*\n")  # the \r that may stand before it is taken off the document


def split_end(piece: InputSplit) -> int | None:
    """Where a piece ends; None for the end of the file."""
    return piece.stop if piece.stop >= 0 else None


# --------------------------------------------------------------------------------------------------- plain text


def txt(piece: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """Documents of a text file, between blank lines, between separators, or the whole file."""
    source = piece.source
    if source.bytes == 0:
        return
    with open_bytes(source, split_end(piece)) as file:
        reject_utf16(file.peek(2)[:2], source)  # type: ignore[attr-defined]
        found = whole_file(file) if piece.read_options.whole_files else documents(file, piece)
        while some := list(islice(found, 1000)):
            places = [f"{source.path}, byte {place}" for _, place in some]
            yield Chunk.of([document for document, _ in some], places.__getitem__)


def whole_file(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """A file that is one document."""
    yield file.read().removeprefix(BOM), 0


def documents(file: IO[bytes], piece: InputSplit) -> Iterator[tuple[bytes, int]]:
    """The documents that begin in the piece, with their places, read a block at a time."""
    separator = separator_of(piece.read_options)
    place, block = first_document(file, piece, separator)  # the block begins at this place of the file
    at, ended = 0, False
    while piece.stop < 0 or place + at < piece.stop:
        match = separator.search(block, at)
        if match is not None and (match.end() < len(block) or ended):  # else more of the separator may follow
            if match.start() > at:
                document = block[at : match.start()]
                yield document.removesuffix(b"\r") if separator is BLANK_LINES else document, place + at
            at = match.end()
        elif ended:
            rest = block[at:].rstrip(b"\r\n") if separator is BLANK_LINES else block[at:]
            if rest:
                yield rest, place + at
            return
        else:
            more = file.read(BLOCK_BYTES)
            ended = not more
            block, place, at = block[at:] + more, place + at, 0
            kept = piece.read_options.max_doc_bytes + 1
            surplus = len(block) - kept - 2 * BLOCK_BYTES
            if surplus > 0:  # too long in any case: keep enough to show it, and what may hold its end
                block, place = block[:kept] + b"\0" + block[kept + surplus + 1 :], place + surplus


def first_document(file: IO[bytes], piece: InputSplit, separator: re.Pattern[bytes]) -> tuple[int, bytes]:
    """Where the first document begins that begins at or after the start of the piece, and what was read from there."""
    if piece.start == 0:
        block = file.read(BLOCK_BYTES)
        return (len(BOM), block[len(BOM) :]) if block.startswith(BOM) else (0, block)
    before = piece.start  # the separator before it may itself begin in the piece before
    while before > 0 and (file.seek(before - 1), file.read(1))[1] in (b" ", b"\t", b"\r", b"\n"):
        before -= 1
    given = piece.read_options.separator
    before = max(0, before if given is None else piece.start - len(unescaped(given)))
    file.seek(before)
    block, ended = b"", False
    while not ended:
        more = file.read(BLOCK_BYTES)
        ended, block = not more, block + more
        for match in separator.finditer(block):
            if before + match.end() >= piece.start and (match.end() < len(block) or ended):
                return before + match.end(), block[match.end() :]
        if 0 <= piece.stop < before + len(block) - BLOCK_BYTES:
            break
    return max(piece.stop, before + len(block)), b""


def separator_of(reading: ReadOptions) -> re.Pattern[bytes]:
    """What stands between documents."""
    return BLANK_LINES if reading.separator is None else re.compile(re.escape(unescaped(reading.separator)))


def unescaped(separator: str) -> bytes:
    """A separator as typed: \\n and \\t mean what they say."""
    return separator.replace("\\n", "\n").replace("\\t", "\t").encode()


# --------------------------------------------------------------------------------------------------------- jsonl


def jsonl(piece: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """One JSON object a line. Blocks of lines are read at once; a block with something odd in it line by line."""
    line = 1 if piece.start == 0 else None
    for block, offset in line_blocks(piece, policy):
        texts = whole_block(block, piece.read_options.text_column)
        if texts is not None:
            yield Chunk(texts, LineLocator(piece.source, block, offset, line))
        else:
            yield single_lines(block, offset, line, piece, policy)
        line = None if line is None else line + block.count(b"\n")


@dataclass(frozen=True)
class LineLocator:
    """FILE:LINE for the lines of a block where lines were counted from the beginning of the file, else FILE and a byte.

    A block in which much is wrong is asked often, and is taken apart once.
    """

    source: Source
    block: bytes
    offset: int
    first: int | None

    @cached_property
    def starts(self) -> list[int]:
        """Where its lines begin."""
        return [0, *accumulate(len(line) + 1 for line in self.block.split(b"\n"))]

    def __call__(self, i: int) -> str:
        if self.first is not None:
            return f"{self.source.path}:{self.first + i}"
        return f"{self.source.path}, byte {self.offset + self.starts[i]}"


def line_blocks(piece: InputSplit, policy: BadDataPolicy) -> Iterator[tuple[bytes, int]]:
    """Blocks of whole lines that begin within the piece, with their place in the file."""
    longest = 6 * piece.read_options.max_doc_bytes + 1_000_000  # of a line: JSON may spell a character with six
    with open_bytes(piece.source, split_end(piece)) as file:
        at = piece.start
        if at > 0:
            file.seek(at - 1)
            at += skip_line(file) - 1  # the line that goes on here began in the piece before
        else:
            first = file.peek(3)  # type: ignore[attr-defined]
            reject_utf16(first[:2], piece.source)
            if first.startswith(BOM):
                at = len(file.read(len(BOM)))
        while piece.stop < 0 or at < piece.stop:
            block = file.read(BLOCK_BYTES if piece.stop < 0 else min(BLOCK_BYTES, piece.stop - at))
            if not block:
                return
            size = len(block)
            if block[-1:] != b"\n":
                rest = file.readline(longest)
                size += len(rest)
                if len(rest) < longest:
                    block += rest
                else:
                    block = block[: block.rfind(b"\n") + 1]
                    size += 0 if rest.endswith(b"\n") else skip_line(file)
                    error = BertGPTError(
                        "BG312", "a line is too long", path=f"{piece.source.path}, byte {at + len(block)}"
                    )
                    policy.handle("too_long", error)
            if block:
                yield block, at
            at += size


def skip_line(file: IO[bytes]) -> int:
    """Read to the end of a line, however long; how many bytes that were."""
    skipped = 0
    while part := file.readline(BLOCK_BYTES):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def whole_block(block: bytes, column: str) -> DocumentBatch | None:
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
        return None  # some line is not what it should be: `single_lines` finds out which, and says so
    lines = block.count(b"}\n{") + block.count(b"}\r\n{") + 1  # not so where an object has no line of its own
    texts = table[column]
    if table.num_rows != lines or texts.null_count:
        return None
    return DocumentBatch.of_column(texts.combine_chunks())


def single_lines(block: bytes, offset: int, first: int | None, piece: InputSplit, policy: BadDataPolicy) -> Chunk:
    """The same line by line, with the place of whatever is wrong."""
    column = piece.read_options.text_column
    documents: list[bytes | None] = []
    places: list[str] = []
    for i, line in enumerate(block.split(b"\n")):
        place = f"{piece.source.path}:{first + i}" if first is not None else f"{piece.source.path}, byte {offset}"
        offset += len(line) + 1
        row = parse_object(line, place, policy)
        if row is None:
            continue
        if column not in row:
            policy.handle("no_text", missing_column(column, row, place))
            continue
        text = row[column]
        documents.append(text.encode(errors="surrogatepass") if isinstance(text, str) else None)
        places.append(place)
    return Chunk.of(documents, places.__getitem__)


def parse_object(line: bytes, place: str, policy: BadDataPolicy) -> dict[str, Any] | None:
    """The JSON object of a line; None where there is none, or none that is wanted."""
    if not line.strip():
        return None
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        cause = f"{error.reason} at byte {error.start} of the line"
        policy.handle("bad_utf8", BertGPTError("BG301", "a line is not UTF-8", path=place, cause=cause))
        if policy.on_error == "skip":
            return None
        text = line.decode(errors="replace")
    try:
        row = json.loads(text)
        if not isinstance(row, dict):
            raise ValueError("this is no object")
    except (ValueError, RecursionError) as error:
        excerpt = text[:80].rstrip()
        policy.handle(
            "bad_lines", BertGPTError("BG302", f"a line is not JSON: {excerpt}", path=place, cause=str(error))
        )
        return None
    return row
