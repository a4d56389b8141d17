"""txt and jsonl readers, which can start and stop at any byte. A document belongs to the split in which it starts."""

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
BLANK_LINES = re.compile(rb"\n[ \t\r\n]*\n")  # a \r before it is stripped from the end of the document


def split_end(input_split: InputSplit) -> int | None:
    """The byte at which a split ends; None for the end of the file."""
    return input_split.stop if input_split.stop >= 0 else None


# --------------------------------------------------------------------------------------------------- plain text


def read_txt(input_split: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """Documents of a text file: between blank lines, between separators, or the whole file."""
    source = input_split.source
    if source.bytes == 0:
        return
    with open_bytes(source, split_end(input_split)) as file:
        reject_utf16(file.peek(2)[:2], source)  # type: ignore[attr-defined]
        if input_split.read_options.whole_files:
            limit = len(BOM) + input_split.read_options.max_doc_bytes + 1  # enough to see that it is too long
            documents = iter([(file.read(limit).removeprefix(BOM), 0)])
        else:
            documents = iterate_documents(file, input_split)
        while batch := list(islice(documents, 1000)):
            locations = [f"{source.path}, byte {offset}" for _, offset in batch]
            yield Chunk.from_list([document for document, _ in batch], locations.__getitem__)


def iterate_documents(file: IO[bytes], input_split: InputSplit) -> Iterator[tuple[bytes, int]]:
    """The documents that start in the split, with their byte offsets, read block by block.

    Of a document over the limit only enough is kept for its length to be seen; no byte is searched twice.
    """
    separator = separator_pattern(input_split.read_options)
    max_bytes = input_split.read_options.max_doc_bytes
    offset, block = find_first_document(file, input_split, separator)  # offset of the block in the file
    start, begin, searched, at_eof = offset, 0, 0, False  # of the document: offset in the file, index in the block
    head = b""  # of a document over the limit, whose other bytes are dropped
    while input_split.stop < 0 or start < input_split.stop:
        match = separator.search(block, searched)
        if match is not None and (match.end() < len(block) or at_eof):  # else the separator may continue
            if document := head + block[begin : match.start()]:
                yield document.removesuffix(b"\r") if separator is BLANK_LINES else document, start
            begin = searched = match.end()
            start, head = offset + begin, b""
        elif at_eof:
            rest = block[begin:].rstrip(b"\r\n") if separator is BLANK_LINES else block[begin:]
            if head + rest:
                yield head + rest, start
            return
        else:
            searched = match.start() if match else max(searched, unmatched_until(block, input_split.read_options))
            if not head and searched - begin > max_bytes:
                head = block[begin : begin + max_bytes + 1]
            begin = searched if head else begin
            next_bytes = file.read(BLOCK_BYTES)
            at_eof = not next_bytes
            block, offset, searched, begin = block[begin:] + next_bytes, offset + begin, searched - begin, 0


def unmatched_until(block: bytes, read_options: ReadOptions) -> int:
    """The index before which no separator starts that continues after the block, given that the block has none."""
    if read_options.separator is None:
        return len(block.rstrip(b" \t\r\n"))
    return max(0, len(block) - len(unescape(read_options.separator)) + 1)


def find_first_document(file: IO[bytes], input_split: InputSplit, separator: re.Pattern[bytes]) -> tuple[int, bytes]:
    """The offset of the first document that starts in the split or after it, and the bytes read from there on."""
    if input_split.start == 0:
        block = file.read(BLOCK_BYTES)
        return (len(BOM), block[len(BOM) :]) if block.startswith(BOM) else (0, block)
    offset = input_split.start  # go back, since the separator in front of the document may start in the previous split
    while offset > 0 and (file.seek(offset - 1), file.read(1))[1] in (b" ", b"\t", b"\r", b"\n"):
        offset -= 1
    given = input_split.read_options.separator
    offset = max(0, offset if given is None else input_split.start - len(unescape(given)))
    file.seek(offset)
    block, at_eof = b"", False
    while not at_eof:
        next_bytes = file.read(BLOCK_BYTES)
        at_eof, block = not next_bytes, block + next_bytes
        for match in separator.finditer(block):
            if offset + match.end() >= input_split.start and (match.end() < len(block) or at_eof):
                return offset + match.end(), block[match.end() :]
        if 0 <= input_split.stop < offset + len(block) - BLOCK_BYTES:
            break
    return max(input_split.stop, offset + len(block)), b""


def separator_pattern(read_options: ReadOptions) -> re.Pattern[bytes]:
    """The pattern that separates documents."""
    separator = read_options.separator
    return BLANK_LINES if separator is None else re.compile(re.escape(unescape(separator)))


def unescape(separator: str) -> bytes:
    """A separator as typed on the command line, with \\n and \\t replaced."""
    return separator.replace("\\n", "\n").replace("\\t", "\t").encode()


# --------------------------------------------------------------------------------------------------------- jsonl


def read_jsonl(input_split: InputSplit, policy: BadDataPolicy) -> Iterator[Chunk]:
    """One JSON object per line. Blocks of lines are parsed at once; a block with anything unusual, line by line."""
    line = 1 if input_split.start == 0 else None
    for block, offset in line_blocks(input_split, policy):
        documents = parse_block(block, input_split.read_options.text_column)
        if documents is not None:
            yield Chunk(documents, LineLocator(input_split.source, block, offset, line))
        else:
            yield parse_lines(LineLocator(input_split.source, block, offset, line), input_split, policy)
        line = None if line is None else line + block.count(b"\n")


@dataclass(frozen=True)
class LineLocator:
    """Location of the lines of a block: FILE:LINE if lines were counted from the start of the file, else FILE, byte N.

    The block is split into lines once, since a block with many errors is asked often.
    """

    source: Source
    block: bytes
    offset: int
    first_line: int | None

    @cached_property
    def starts(self) -> list[int]:
        """The offset of each line in the block."""
        return [0, *accumulate(len(line) + 1 for line in self.block.split(b"\n"))]

    def __call__(self, i: int) -> str:
        if self.first_line is not None:
            return f"{self.source.path}:{self.first_line + i}"
        return f"{self.source.path}, byte {self.offset + self.starts[i]}"


def line_blocks(input_split: InputSplit, policy: BadDataPolicy) -> Iterator[tuple[bytes, int]]:
    """Blocks of complete lines that start in the split, with their byte offsets."""
    max_line = 6 * input_split.read_options.max_doc_bytes + 1_000_000  # JSON may escape one character as six
    stop = input_split.stop
    with open_bytes(input_split.source, split_end(input_split)) as file:
        offset = input_split.start
        if offset > 0:
            file.seek(offset - 1)
            offset += skip_line(file) - 1  # the line that continues here started in the previous split
        else:
            first_bytes = file.peek(3)  # type: ignore[attr-defined]
            reject_utf16(first_bytes[:2], input_split.source)
            if first_bytes.startswith(BOM):
                offset = len(file.read(len(BOM)))
        while stop < 0 or offset < stop:
            block = file.read(BLOCK_BYTES if stop < 0 else min(BLOCK_BYTES, stop - offset))
            if not block:
                return
            size = len(block)
            if block[-1:] != b"\n":
                rest = file.readline(max_line)
                size += len(rest)
                if len(rest) < max_line:
                    block += rest
                else:
                    block = block[: block.rfind(b"\n") + 1]
                    size += 0 if rest.endswith(b"\n") else skip_line(file)
                    location = f"{input_split.source.path}, byte {offset + len(block)}"
                    policy.handle("too_long", BertGPTError("BG312", "line too long", path=location))
            if block:
                yield block, offset
            offset += size


def skip_line(file: IO[bytes]) -> int:
    """Read to the end of a line of any length; returns the number of bytes."""
    skipped = 0
    while part := file.readline(BLOCK_BYTES):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def parse_block(block: bytes, column: str) -> DocumentBatch | None:
    """The text column of a block of lines, parsed by Arrow; None if it must be parsed line by line."""
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
        return None  # some line is invalid: `parse_lines` finds and reports it
    num_lines = block.count(b"}\n{") + block.count(b"}\r\n{") + 1  # differs if an object is not on a line of its own
    texts = table[column]
    if table.num_rows != num_lines or texts.null_count:
        return None
    return DocumentBatch.from_arrow(texts.combine_chunks())


def parse_lines(lines: LineLocator, input_split: InputSplit, policy: BadDataPolicy) -> Chunk:
    """The text column of a block, parsed line by line to report the location of bad data."""
    column = input_split.read_options.text_column
    documents: list[bytes | None] = []
    locations: list[str] = []
    for i, line in enumerate(lines.block.split(b"\n")):
        location = lines(i)
        row = parse_object(line, location, policy)
        if row is None:
            continue
        if column not in row:
            policy.handle("no_text", missing_column(column, row, location))
            continue
        text = row[column]
        documents.append(text.encode(errors="surrogatepass") if isinstance(text, str) else None)
        locations.append(location)
    return Chunk.from_list(documents, locations.__getitem__)


def parse_object(line: bytes, location: str, policy: BadDataPolicy) -> dict[str, Any] | None:
    """The JSON object on a line; None for a blank line, or for a bad one that the policy skips."""
    if not line.strip():
        return None
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        cause = f"{error.reason} at byte {error.start} of the line"
        policy.handle("bad_utf8", BertGPTError("BG301", "invalid UTF-8", path=location, cause=cause))
        if policy.on_error == "skip":
            return None
        text = line.decode(errors="replace")
    try:
        row = json.loads(text)
        if not isinstance(row, dict):
            raise ValueError("not a JSON object")
    except (ValueError, RecursionError) as error:
        message = f"invalid JSON: {text[:80].rstrip()}"
        policy.handle("bad_lines", BertGPTError("BG302", message, path=location, cause=str(error)))
        return None
    return row
