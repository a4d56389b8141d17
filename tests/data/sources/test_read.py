"""Reading text: every format gives the same documents, wherever it is split, and errors name a location."""

import csv
import gzip
import io
import itertools
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
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


def documents(path: Path, on_error: str = "stop", **options: Any) -> tuple[list[bytes], dict[str, int]]:
    """The documents that are read with the default splits, and the counts of bad data."""
    policy = BadDataPolicy(on_error)
    splits = input_splits(resolve_sources([str(path)]), ReadOptions(**options), None)
    return [
        text for split in splits for batch in read_documents(split, policy) for text in batch.documents
    ], +policy.counts


def documents_of_splits(path: Path, cuts: Iterable[int], end: int | None = None, **options: Any) -> list[list[bytes]]:
    """The documents of each split, when a file is split at these positions."""
    [source] = resolve_sources([str(path)])
    edges = [0, *cuts, source.bytes if end is None else end]
    splits = [InputSplit(source, edges[i], edges[i + 1], 0, ReadOptions(**options)) for i in range(len(edges) - 1)]
    return [
        [text for batch in read_documents(split, BadDataPolicy("stop")) for text in batch.documents] for split in splits
    ]


def flatten(documents: list[list[bytes]]) -> list[bytes]:
    return [text for texts in documents for text in texts]


def read_error(path: Path, on_error: str = "stop", **options: Any) -> BertGPTError:
    with pytest.raises(BertGPTError) as error:
        documents(path, on_error, **options)
    return error.value


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_documents(form: str, compression: str, tmp_path: Path) -> None:
    suffix, write, options = FORMATS[form]
    path = tmp_path / f"texts{suffix}{compression}"
    path.write_bytes(COMPRESSIONS[compression](write(TEXTS)))
    assert documents(path, **options) == ([text.encode() for text in TEXTS], {})


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_whole_file_as_one_document(compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"play.txt{compression}"
    path.write_bytes(COMPRESSIONS[compression](b"\xef\xbb\xbfone\n\ntwo\n"))
    assert documents(path, txt_documents="file") == ([b"one\n\ntwo\n"], {})


def test_concatenated_compressed_streams(tmp_path: Path) -> None:
    for ending, compress in ((".gz", gzip.compress), (".zst", zstd)):
        path = tmp_path / f"two.jsonl{ending}"
        path.write_bytes(compress(b'{"text": "a"}\n{"te') + compress(b'xt": "b"}\n'))
        assert documents(path)[0] == [b"a", b"b"]


TXT = {  # content, read options
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
def test_txt_split_anywhere(case: str, tmp_path: Path) -> None:
    content, options = TXT[case]
    (path := tmp_path / "t.txt").write_bytes(content)
    whole = documents(path, **options)[0]
    assert [text.strip() for text in whole] == [b"one", b"two words", b"three"]
    first = 4 if case == "BOM" else 1  # real splits are never smaller than a BOM
    for cut in range(first, len(content)):
        assert flatten(documents_of_splits(path, [cut], **options)) == whole, cut
    for step in (first, first + 1, 5, 7):
        assert flatten(documents_of_splits(path, range(step, len(content), step), **options)) == whole, step


@pytest.mark.parametrize(
    ("separator", "alphabet"), [("--", "a-"), ("\\n--\\n", "a-\n"), ("aba", "ab"), ("\\n\\n", "a\n")]
)
def test_self_overlapping_separator(
    separator: str, alphabet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Separators can only be found from the start of the file, so it is a single split."""
    monkeypatch.setattr("bertgpt.data.sources.splits.MIN_SPLIT_BYTES", 1)
    path = tmp_path / "t.txt"

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.text(alphabet, min_size=8, max_size=24))
    def check(text: str) -> None:
        path.write_text(text)
        splits = input_splits(resolve_sources([str(path)]), ReadOptions(separator=separator), None)
        assert len(splits) == 1
        whole = [part.encode() for part in text.split(separator.replace("\\n", "\n")) if part.strip()]
        assert [
            document for batch in read_documents(splits[0], BadDataPolicy("stop")) for document in batch.documents
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
def test_jsonl_split_anywhere(case: str, tmp_path: Path) -> None:
    (path := tmp_path / "t.jsonl").write_bytes(JSONL[case])
    whole = documents(path)[0]
    assert b" ".join(whole) == b"one two words three"
    first = 4 if case == "BOM" else 1
    for cut in range(first, len(JSONL[case])):
        assert flatten(documents_of_splits(path, [cut])) == whole, cut
    for step in (first, first + 1, 7):
        assert flatten(documents_of_splits(path, range(step, len(JSONL[case]), step))) == whole, step


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=12),
    ascii_only=st.booleans(),
    step=st.integers(1, 60),
    group=st.integers(1, 5),
)
def test_round_trip_of_arbitrary_documents(
    texts: list[str], ascii_only: bool, step: int, group: int, tmp_path: Path
) -> None:
    expected = [text.encode() for text in texts if text and not text.isspace()]
    (lines := tmp_path / "t.jsonl").write_bytes(as_jsonl(texts, ascii_only))
    assert flatten(documents_of_splits(lines, range(step, lines.stat().st_size, step))) == expected
    for name, write in (("t.parquet", as_parquet), ("t.arrow", as_arrow)):
        (path := tmp_path / name).write_bytes(write(texts, group=group))
        groups = -(-len(texts) // group)
        assert flatten(documents_of_splits(path, range(1, groups), end=groups)) == expected


def test_documents_larger_than_a_block(tmp_path: Path) -> None:
    texts = ["x" * 9_000_000 + "\n.", "small"]
    for form in ("jsonl", "csv", "parquet"):
        suffix, write, _ = FORMATS[form]
        (path := tmp_path / f"t{suffix}").write_bytes(write(texts))
        assert documents(path)[0] == [text.encode() for text in texts], form


@pytest.mark.parametrize("bad", [b"\n", b"nonsense\n", b'{"text": "caf\xe9"}\n' * 3000])
@pytest.mark.timeout(20)
def test_bad_lines_do_not_slow_down_the_others(bad: bytes, tmp_path: Path) -> None:
    """Compared with a file without bad lines, in CPU time, since other processes may be running."""
    (plain := tmp_path / "plain.jsonl").write_bytes(b'{"text": "some words"}\n' * 100_000)
    (path := tmp_path / "t.jsonl").write_bytes(plain.read_bytes() + bad)
    seconds = []
    for file in (plain, path):
        start = time.process_time()
        assert len(documents(file, "skip")[0]) == 100_000
        seconds.append(time.process_time() - start)
    assert seconds[1] < 4 * seconds[0]


def test_only_the_separator_is_removed(tmp_path: Path) -> None:
    (path := tmp_path / "t.txt").write_bytes(b"one\r%%two \n%%\rthree\r")
    assert documents(path, separator="%%")[0] == [b"one\r", b"two \n", b"\rthree\r"]


@pytest.mark.parametrize("text", [" " * 50_000 + ".", "a\n" + " \t" * 25_000 + ".", "\n" * 50_000, "." * 50_000])
@pytest.mark.timeout(10)
def test_long_runs_of_one_character_take_linear_time(text: str, tmp_path: Path) -> None:
    (path := tmp_path / "t.txt").write_text(text)
    start = time.perf_counter()
    assert documents(path)[0] == ([text.encode()] if text.strip() else [])
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("separator", [None, "%%"])
@pytest.mark.parametrize("long", [b"x" * 999, b"a\n" * 500, b" " * 700 + b"." + b" " * 700, b"x" * 100_000])
def test_document_over_the_limit_is_never_lost(
    long: bytes, separator: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the file is split and blocks end, it is counted as too long, once."""
    between = b"\n\n" if separator is None else separator.encode()
    (path := tmp_path / "t.txt").write_bytes(between.join([b"one", long, b"two", long.rstrip(b"\n")]))
    options = ReadOptions(max_doc_bytes=500, separator=separator)
    [source] = resolve_sources([str(path)])
    for block_bytes in (7, 64, 1000, 8_000_000) if len(long) < 2000 else (1000, 8_000_000):
        monkeypatch.setattr("bertgpt.data.sources.text.BLOCK_BYTES", block_bytes)
        for edges in ([0, -1], [0, 3, source.bytes], [0, len(long) // 2, len(long) + 4, source.bytes]):
            policy = BadDataPolicy("skip")
            splits = [InputSplit(source, edges[i], edges[i + 1], 0, options) for i in range(len(edges) - 1)]
            batches = [batch for split in splits for batch in read_documents(split, policy)]
            assert [text for batch in batches for text in batch.documents] == [b"one", b"two"]
            assert policy.counts["too_long"] == 2, (block_bytes, edges)


@pytest.mark.parametrize("whole_file", [False, True])
@pytest.mark.timeout(30)
def test_one_line_that_decompresses_to_600_megabytes(whole_file: bool, tmp_path: Path) -> None:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        for _ in range(60):
            stream.write(b"x" * 10_000_000)
    (path := tmp_path / "t.txt.zst").write_bytes(sink.getvalue().to_pybytes())
    options = {"txt_documents": "file"} if whole_file else {}
    start = time.process_time()
    assert documents(path, "skip", max_doc_bytes=1_000_000, **options) == ([], {"too_long": 1})
    assert time.process_time() - start < 4


def test_parquet_that_decompresses_to_more_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertgpt.data.sources.tabular.MAX_DECOMPRESSED", 10_000_000)
    pq.write_table(pa.table({"text": ["x" * 11_000_000]}), sink := io.BytesIO(), compression="none")
    (path := tmp_path / "t.parquet.zst").write_bytes(zstd(sink.getvalue()))
    assert path.stat().st_size < 10_000
    error = read_error(path, "skip")
    assert (error.code, str(error.cause).partition(":")[0]) == ("BG313", "more than 10,000,000 bytes when decompressed")


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_long_value_repeated_in_all_rows(form: str, tmp_path: Path) -> None:
    """A dictionary of one megabyte that decodes to ten gigabytes: decoded a few rows at a time."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 9999 + [None], pa.int32()), pa.array(["x" * 1_000_000]))
    table, path = pa.table({"text": column}), tmp_path / f"t.{form}"
    if form == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    [source] = resolve_sources([str(path)])
    batches = read_documents(InputSplit(source, 0, -1, 0), BadDataPolicy("skip"))
    assert all(len(batch.data) < 10_000_000 for batch in itertools.islice(batches, 20))


@pytest.mark.parametrize("policy", ["skip", "replace"])
def test_ragged_csv_row_that_is_not_utf8(policy: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (path := tmp_path / "t.csv").write_bytes("i,täxt\n1,önè\n".encode() + b"2,caf\xe9,extra\n3,caf\xe9\n4,four\n")
    texts = ["önè".encode(), "caf\ufffd".encode(), b"four"] if policy == "replace" else ["önè".encode(), b"four"]
    assert documents(path, policy, text_column="täxt") == (texts, {"bad_lines": 1, "bad_utf8": 1})
    assert read_error(path, text_column="täxt").code == "BG313"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("column", [pa.array(["one", "two"]), pa.array([*"abacabb"]).dictionary_encode()])
def test_arrow_offsets_and_indices_are_checked(column: pa.Array, tmp_path: Path) -> None:
    """Beyond their buffers they are an error, not a crash or the bytes of other memory."""
    numbers = [0, 1, 0, 2, 0, 1, 1] if pa.types.is_dictionary(column.type) else [0, 3, 6]
    with pa.ipc.new_file(path := tmp_path / "t.arrow", pa.schema([("text", column.type)])) as writer:
        writer.write_batch(pa.record_batch([column], ["text"]))
    content, good = path.read_bytes(), np.array(numbers, np.int32).tobytes()
    assert content.count(good) == 1
    path.write_bytes(content.replace(good, np.array([*numbers[:-1], 1 << 30], np.int32).tobytes()))
    assert read_error(path).code == "BG313"


# ------------------------------------------------------------------------------------------------ bad data


@pytest.mark.parametrize("form", FORMATS)
def test_empty_and_blank_documents_are_counted(form: str, tmp_path: Path) -> None:
    suffix, write, options = FORMATS[form]
    (path := tmp_path / f"t{suffix}").write_bytes(write(["one", "\u00a0 \u2003", "two"]))
    assert documents(path, **options) == ([b"one", b"two"], {"empty": 1})


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("form", FORMATS)
def test_empty_files_are_valid(form: str, compression: str, tmp_path: Path) -> None:
    suffix, write, options = FORMATS[form]
    path = tmp_path / f"t{suffix}{compression}"
    path.write_bytes(COMPRESSIONS[compression](write([])))
    assert documents(path, **options)[0] == []
    if suffix in (".txt", ".jsonl", ".csv"):
        path.write_bytes(COMPRESSIONS[compression](b""))
        assert documents(path, **options)[0] == []


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "arrow file", "arrow stream"])
def test_missing_column_is_an_error_before_any_work(form: str, tmp_path: Path) -> None:
    suffix, write, _ = FORMATS[form]
    (path := tmp_path / f"t{suffix}").write_bytes(write(["a\nb", "c"]))
    assert column_names(resolve_sources([str(path)])[0]) == ["id", "text"]
    with pytest.raises(BertGPTError) as error:
        bertgpt.tokenize(
            str(path), text_column="txt", train_tokenizer="bpe", vocab_size=300, out=str(tmp_path / "o"), dry_run=True
        )
    assert (error.value.code, error.value.hint) == ("BG212", "did you mean text?")


@pytest.mark.parametrize("form", FORMATS)
def test_too_long_documents(form: str, tmp_path: Path) -> None:
    suffix, write, options = FORMATS[form]
    (path := tmp_path / f"t{suffix}").write_bytes(write(["0123456789", "0123456789x", "more"]))
    error = read_error(path, max_doc_bytes=10, **options)
    assert error.code == "BG312"
    assert str(error.path).startswith(str(path))
    assert documents(path, "skip", max_doc_bytes=10, **options) == ([b"0123456789", b"more"], {"too_long": 1})


def corrupted(content: bytes) -> dict[str, bytes]:
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0x55
    return {"truncated": content[: len(content) // 2], "header only": content[:9], "garbage": b"garbage" * 30}


@pytest.mark.parametrize("damage", ["truncated", "header only", "garbage"])
@pytest.mark.parametrize(
    "name", ["t.txt.gz", "t.jsonl.gz", "t.csv.gz", "t.jsonl.zst", "t.parquet", "t.parquet.gz", "t.arrow"]
)
def test_corrupt_files(name: str, damage: str, tmp_path: Path) -> None:
    suffix, ending = Path(name.removesuffix(".gz").removesuffix(".zst")).suffix, Path(name).suffix
    write = {".txt": FORMATS["blank lines"][1], ".jsonl": as_jsonl, ".csv": FORMATS["csv"][1], ".parquet": as_parquet}
    content = write.get(suffix, as_arrow)([f"{text} {i}" for i in range(500) for text in TEXTS])
    (path := tmp_path / name).write_bytes(corrupted(COMPRESSIONS.get(ending, bytes)(content))[damage])
    error = read_error(path)
    assert (error.code, error.path) == ("BG313", str(path))
    assert error.cause
