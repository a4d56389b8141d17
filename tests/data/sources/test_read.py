"""Reading text: every format gives the same documents, however it is cut, and whatever is wrong has its place."""

import csv
import gzip
import io
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bertgpt
from bertgpt.data.sources.read import BadDataPolicy, column_names, read_documents
from bertgpt.data.sources.resolve import resolve_sources
from bertgpt.data.sources.source import InputSplit, ReadOptions
from bertgpt.data.sources.splits import input_splits
from bertgpt.utils.errors import BertGPTError

TEXTS = [
    "one line",
    "two\nlines",
    'said "so", they;\ttold',
    "nul \x00 bell \x07 escape \x1b[0m",
    "👩‍👩‍👧‍👦 👍🏽 🇵🇪",
    "你好，世界。 שלום עולם \u202eabc\u202c",
    "e\u0301 é \u00a0 \ufeff inside",
]


def table_of(texts: list[str]) -> pa.Table:
    return pa.table({"id": range(len(texts)), "text": texts})


def as_table(texts: list[str], delimiter: str) -> bytes:
    sink = io.StringIO()
    csv.writer(sink, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("id", "text"), *enumerate(texts)])
    return sink.getvalue().encode()


def as_parquet(texts: list[str], group: int = 2) -> bytes:
    pq.write_table(table_of(texts), sink := io.BytesIO(), row_group_size=group)
    return sink.getvalue()


def as_arrow(texts: list[str], new: Any = pa.ipc.new_file, group: int = 2) -> bytes:
    sink, table = io.BytesIO(), table_of(texts)
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=group)
    return sink.getvalue()


def as_jsonl(texts: list[str], ascii_only: bool = False) -> bytes:
    rows = ({"id": i, "text": text} for i, text in enumerate(texts))
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()


FORMATS: dict[str, tuple[str, Callable[[list[str]], bytes], dict[str, Any]]] = {
    "blank lines": (".txt", lambda texts: "\n\n".join(texts).encode(), {}),
    "separator": (".text", lambda texts: "\n%%\n".join(texts).encode(), {"separator": "\\n%%\\n"}),
    "jsonl": (".jsonl", as_jsonl, {}),
    "jsonl in ASCII": (".ndjson", lambda texts: as_jsonl(texts, ascii_only=True), {}),
    "csv": (".csv", lambda texts: as_table(texts, ","), {}),
    "tsv": (".tsv", lambda texts: as_table(texts, "\t"), {}),
    "parquet": (".parquet", as_parquet, {}),
    "arrow file": (".arrow", as_arrow, {}),
    "arrow stream": (".arrow", lambda texts: as_arrow(texts, pa.ipc.new_stream), {}),
}


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def documents(path: Path, on_error: str = "stop", **reading: Any) -> tuple[list[bytes], dict[str, int]]:
    """What is read, in the pieces that are usual, and what was counted."""
    policy = BadDataPolicy(on_error)
    cut = input_splits(resolve_sources([str(path)]), ReadOptions(**reading), None)
    return [
        text for piece in cut for batch in read_documents(piece, policy) for text in batch.documents
    ], +policy.counts


def documents_cut(path: Path, cuts: Iterable[int], end: int | None = None, **reading: Any) -> list[list[bytes]]:
    """What each piece holds, when a file is cut at these places."""
    [source] = resolve_sources([str(path)])
    edges = [0, *cuts, source.bytes if end is None else end]
    made = [InputSplit(source, edges[i], edges[i + 1], 0, ReadOptions(**reading)) for i in range(len(edges) - 1)]
    return [
        [text for batch in read_documents(piece, BadDataPolicy("stop")) for text in batch.documents] for piece in made
    ]


def joined(found: list[list[bytes]]) -> list[bytes]:
    return [text for texts in found for text in texts]


def wrong(path: Path, on_error: str = "stop", **reading: Any) -> BertGPTError:
    with pytest.raises(BertGPTError) as error:
        documents(path, on_error, **reading)
    return error.value


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_documents(form: str, compression: str, tmp_path: Path) -> None:
    suffix, write, reading = FORMATS[form]
    path = tmp_path / f"texts{suffix}{compression}"
    path.write_bytes(COMPRESSIONS[compression](write(TEXTS)))
    assert documents(path, **reading) == ([text.encode() for text in TEXTS], {})


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_file_may_be_one_document(compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"play.txt{compression}"
    path.write_bytes(COMPRESSIONS[compression](b"\xef\xbb\xbfone\n\ntwo\n"))
    assert documents(path, txt_documents="file") == ([b"one\n\ntwo\n"], {})


def test_compressed_streams_may_follow_each_other(tmp_path: Path) -> None:
    for ending, compress in ((".gz", gzip.compress), (".zst", zstd)):
        path = tmp_path / f"two.jsonl{ending}"
        path.write_bytes(compress(b'{"text": "a"}\n{"te') + compress(b'xt": "b"}\n'))
        assert documents(path)[0] == [b"a", b"b"]


TXT = {  # content: its documents, but for line ends at the end of the file
    "plain": (b"one\n\ntwo words\n\nthree\n", {}),
    "no last newline": (b"one\n\ntwo words\n\nthree", {}),
    "CRLF": (b"one\r\n\r\ntwo words\r\n\r\nthree\r\n", {}),
    "runs of blank lines": (b"\n\n\none\n\n\n\n\n\ntwo words\n \n\t\n\n   \nthree\n\n\n\n", {}),
    "runs of blank lines with CRLF": (b"one\r\n\r\n\r\n \r\n\r\ntwo words\r\n\t\r\nthree\r\n\r\n", {}),
    "separator": (b"one%!two words%!three", {"separator": "%!"}),
    "separator and newlines": (b"one\n\n%!two words\n%!three", {"separator": "\\n%!"}),
    "separators in a row": (b"<|><|>one<|><|><|>two words<|>three<|>", {"separator": "<|>"}),
    "BOM": (b"\xef\xbb\xbfone\n\ntwo words\n\nthree", {}),
}


@pytest.mark.parametrize("case", TXT)
def test_txt_cut_anywhere(case: str, tmp_path: Path) -> None:
    content, reading = TXT[case]
    (path := tmp_path / "t.txt").write_bytes(content)
    whole = documents(path, **reading)[0]
    assert [text.strip() for text in whole] == [b"one", b"two words", b"three"]
    first = 4 if case == "BOM" else 1  # pieces of real files are never that small
    for cut in range(first, len(content)):
        assert joined(documents_cut(path, [cut], **reading)) == whole, cut
    for step in (first, first + 1, 5, 7):
        assert joined(documents_cut(path, range(step, len(content), step), **reading)) == whole, step


@pytest.mark.parametrize(
    ("separator", "alphabet"), [("--", "a-"), ("\\n--\\n", "a-\n"), ("aba", "ab"), ("\\n\\n", "a\n")]
)
def test_a_separator_that_overlaps_itself(
    separator: str, alphabet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it begins can only be known from the beginning, so such a file is one piece."""
    monkeypatch.setattr("bertgpt.data.sources.splits.MIN_SPLIT_BYTES", 1)
    path = tmp_path / "t.txt"

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.text(alphabet, min_size=8, max_size=24))
    def check(text: str) -> None:
        path.write_text(text)
        reading = ReadOptions(separator=separator)
        cut = input_splits(resolve_sources([str(path)]), reading, None)
        assert len(cut) == 1
        whole = [part.encode() for part in text.split(separator.replace("\\n", "\n")) if part.strip()]
        assert [
            document for batch in read_documents(cut[0], BadDataPolicy("stop")) for document in batch.documents
        ] == whole

    check()


JSONL = {
    "plain": b'{"text": "one"}\n{"text": "two words"}\n{"text": "three"}\n',
    "no last newline": b'{"text": "one"}\n{"text": "two words"}\n{"text": "three"}',
    "CRLF": b'{"text": "one"}\r\n{"text": "two words"}\r\n{"text": "three"}\r\n',
    "blank lines": b'\n\n{"text": "one"}\n\n\n{"text": "two words"}\n \n{"text": "three"}\n\n',
    "one line": b'{"text": "one two words three"}',
    "BOM": b'\xef\xbb\xbf{"text": "one"}\n{"text": "two words"}\n{"text": "three"}\n',
}


@pytest.mark.parametrize("case", JSONL)
def test_jsonl_cut_anywhere(case: str, tmp_path: Path) -> None:
    (path := tmp_path / "t.jsonl").write_bytes(JSONL[case])
    whole = documents(path)[0]
    assert b" ".join(whole) == b"one two words three"
    first = 4 if case == "BOM" else 1
    for cut in range(first, len(JSONL[case])):
        assert joined(documents_cut(path, [cut])) == whole, cut
    for step in (first, first + 1, 7):
        assert joined(documents_cut(path, range(step, len(JSONL[case]), step))) == whole, step


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=12),
    ascii_only=st.booleans(),
    step=st.integers(1, 60),
    group=st.integers(1, 5),
)
def test_any_documents_come_back_exactly(
    texts: list[str], ascii_only: bool, step: int, group: int, tmp_path: Path
) -> None:
    kept = [text.encode() for text in texts if text and not text.isspace()]
    (lines := tmp_path / "t.jsonl").write_bytes(as_jsonl(texts, ascii_only))
    assert joined(documents_cut(lines, range(step, lines.stat().st_size, step))) == kept
    for name, write in (("t.parquet", as_parquet), ("t.arrow", as_arrow)):
        (path := tmp_path / name).write_bytes(write(texts, group=group))
        groups = -(-len(texts) // group)
        assert joined(documents_cut(path, range(1, groups), end=groups)) == kept


def test_documents_larger_than_a_block(tmp_path: Path) -> None:
    texts = ["x" * 9_000_000 + "\n.", "small"]
    for form in ("jsonl", "csv", "parquet"):
        suffix, write, _ = FORMATS[form]
        (path := tmp_path / f"t{suffix}").write_bytes(write(texts))
        assert documents(path)[0] == [text.encode() for text in texts], form


@pytest.mark.parametrize("odd", [b"\n", b"nonsense\n", b'{"text": "caf\xe9"}\n' * 3000])
@pytest.mark.timeout(20)
def test_odd_lines_do_not_slow_down_the_others(odd: bytes, tmp_path: Path) -> None:
    """Beside a file without them, and in time of this process, since others may be at work."""
    (plain := tmp_path / "plain.jsonl").write_bytes(b'{"text": "some words"}\n' * 100_000)
    (path := tmp_path / "t.jsonl").write_bytes(plain.read_bytes() + odd)
    seconds = []
    for file in (plain, path):
        start = time.process_time()
        assert len(documents(file, "skip")[0]) == 100_000
        seconds.append(time.process_time() - start)
    assert seconds[1] < 4 * seconds[0]


def test_a_separator_takes_nothing_with_it(tmp_path: Path) -> None:
    (path := tmp_path / "t.txt").write_bytes(b"one\r%%two \n%%\rthree\r")
    assert documents(path, separator="%%")[0] == [b"one\r", b"two \n", b"\rthree\r"]


@pytest.mark.parametrize("text", [" " * 50_000 + ".", "a\n" + " \t" * 25_000 + ".", "\n" * 50_000, "." * 50_000])
@pytest.mark.timeout(10)
def test_long_runs_of_one_letter_are_read_at_once(text: str, tmp_path: Path) -> None:
    (path := tmp_path / "t.txt").write_text(text)
    start = time.perf_counter()
    assert documents(path)[0] == ([text.encode()] if text.strip() else [])
    assert time.perf_counter() - start < 2


# ----------------------------------------------------------------------------------------- what may be wrong


@pytest.mark.parametrize("form", FORMATS)
def test_empty_and_blank_documents_are_counted(form: str, tmp_path: Path) -> None:
    suffix, write, reading = FORMATS[form]
    (path := tmp_path / f"t{suffix}").write_bytes(write(["one", "\u00a0 \u2003", "two"]))
    assert documents(path, **reading) == ([b"one", b"two"], {"empty": 1})


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("form", FORMATS)
def test_no_documents_are_no_error(form: str, compression: str, tmp_path: Path) -> None:
    suffix, write, reading = FORMATS[form]
    path = tmp_path / f"t{suffix}{compression}"
    path.write_bytes(COMPRESSIONS[compression](write([])))
    assert documents(path, **reading)[0] == []
    if suffix in (".txt", ".jsonl", ".csv"):
        path.write_bytes(COMPRESSIONS[compression](b""))
        assert documents(path, **reading)[0] == []


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "arrow file", "arrow stream"])
def test_a_column_that_is_not_there_is_found_before_work(form: str, tmp_path: Path) -> None:
    suffix, write, _ = FORMATS[form]
    (path := tmp_path / f"t{suffix}").write_bytes(write(["a\nb", "c"]))
    assert column_names(resolve_sources([str(path)])[0]) == ["id", "text"]
    with pytest.raises(BertGPTError) as error:
        bertgpt.tokenize(
            str(path), text_column="txt", train_tokenizer="bpe", vocab_size=300, out=str(tmp_path / "o"), dry_run=True
        )
    assert (error.value.code, error.value.hint) == ("BG212", "did you mean text?")


@pytest.mark.parametrize("form", FORMATS)
def test_documents_that_are_too_long(form: str, tmp_path: Path) -> None:
    suffix, write, reading = FORMATS[form]
    (path := tmp_path / f"t{suffix}").write_bytes(write(["0123456789", "0123456789x", "more"]))
    error = wrong(path, max_doc_bytes=10, **reading)
    assert error.code == "BG312"
    assert str(error.path).startswith(str(path))
    assert documents(path, "skip", max_doc_bytes=10, **reading) == ([b"0123456789", b"more"], {"too_long": 1})


def corrupted(content: bytes) -> dict[str, bytes]:
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0x55
    return {"cut": content[: len(content) // 2], "begun": content[:9], "garbage": b"garbage" * 30}


@pytest.mark.parametrize("damage", ["cut", "begun", "garbage"])
@pytest.mark.parametrize(
    "name", ["t.txt.gz", "t.jsonl.gz", "t.csv.gz", "t.jsonl.zst", "t.parquet", "t.parquet.gz", "t.arrow"]
)
def test_damaged_files(name: str, damage: str, tmp_path: Path) -> None:
    suffix, ending = Path(name.removesuffix(".gz").removesuffix(".zst")).suffix, Path(name).suffix
    write = {".txt": FORMATS["blank lines"][1], ".jsonl": as_jsonl, ".csv": FORMATS["csv"][1], ".parquet": as_parquet}
    content = write.get(suffix, as_arrow)([f"{text} {i}" for i in range(500) for text in TEXTS])
    (path := tmp_path / name).write_bytes(corrupted(COMPRESSIONS.get(ending, bytes)(content))[damage])
    error = wrong(path)
    assert (error.code, error.path) == ("BG313", str(path))
    assert error.cause
