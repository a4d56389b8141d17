"""Bad data: errors name its location; with --on-error it is skipped or replaced, and counted."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertgpt.data.sources.read import BadDataPolicy, column_names, read_documents
from bertgpt.data.sources.resolve import resolve_sources
from bertgpt.data.sources.source import ReadOptions
from bertgpt.data.sources.splits import input_splits
from bertgpt.utils.errors import BertGPTError


def documents(path: Path, on_error: str = "stop") -> tuple[list[bytes], dict[str, int]]:
    """The documents that are read, and the counts of bad data."""
    policy = BadDataPolicy(on_error)
    splits = input_splits(resolve_sources([str(path)]), ReadOptions(), None)
    return [
        text for split in splits for batch in read_documents(split, policy) for text in batch.documents
    ], +policy.counts


def read_error(path: Path) -> BertGPTError:
    with pytest.raises(BertGPTError) as error:
        documents(path)
    return error.value


def write_table(path: Path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)


@pytest.mark.parametrize("compression", ["", ".gz"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv"])
def test_utf16_is_rejected(suffix: str, compression: str, tmp_path: Path) -> None:
    content = 'text\n{"text": "hi"}\n'.encode("utf-16")
    (path := tmp_path / f"t{suffix}{compression}").write_bytes(gzip.compress(content) if compression else content)
    error = read_error(path)
    assert (error.code, error.path) == ("BG311", str(path))
    assert "UTF-16" in error.message


def test_bom_in_csv(tmp_path: Path) -> None:
    (path := tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbftext\nhi\n")
    assert column_names(resolve_sources([str(path)])[0]) == ["text"]
    assert documents(path)[0] == [b"hi"]


BAD_UTF8 = {
    "txt": (b"one\n\nt\xffwo\n\nthree", "byte 5"),
    "jsonl": (b'{"text": "one"}\n{"text": "t\xffwo"}\n{"text": "three"}\n', ":2"),
    "csv": (b"text\none\nt\xffwo\nthree\n", "row 1"),
}


@pytest.mark.parametrize("form", BAD_UTF8)
def test_bad_utf8(form: str, tmp_path: Path) -> None:
    content, location = BAD_UTF8[form]
    (path := tmp_path / f"t.{form}").write_bytes(content)
    error = read_error(path)
    assert (error.code, error.exit_code) == ("BG301", 3)
    assert str(error.path).startswith(str(path))
    assert str(error.path).endswith(location)
    assert documents(path, "skip") == ([b"one", b"three"], {"bad_utf8": 1})
    assert documents(path, "replace") == ([b"one", "t\ufffdwo".encode(), b"three"], {"bad_utf8": 1})


def test_bad_utf8_and_a_bad_line_in_one_block(tmp_path: Path) -> None:
    (path := tmp_path / "t.jsonl").write_bytes(BAD_UTF8["jsonl"][0] + b"nonsense\n")
    assert documents(path, "skip") == ([b"one", b"three"], {"bad_utf8": 1, "bad_lines": 1})
    assert documents(path, "replace")[0] == [b"one", "t\ufffdwo".encode(), b"three"]


@pytest.mark.parametrize("escape", ["\\ud800", "\\udc00", "\\udc00\\ud800"])
def test_lone_surrogates(escape: str, tmp_path: Path) -> None:
    (path := tmp_path / "t.jsonl").write_text(f'{{"text": "one"}}\n{{"text": "a{escape}b"}}\n{{"text": "three"}}\n')
    error = read_error(path)
    assert error.code == "BG301"
    assert str(error.path) == f"{path}:2"
    assert documents(path, "skip") == ([b"one", b"three"], {"bad_utf8": 1})
    replaced, counts = documents(path, "replace")
    assert replaced[1].decode().strip("\ufffd")[0] == "a"
    assert "\ufffd" in replaced[1].decode()
    assert counts == {"bad_utf8": 1}


BAD_LINES = {
    "truncated": (b'{"text": "two"', "BG302", "bad_lines"),
    "not JSON": (b"<html>", "BG302", "bad_lines"),
    "not an object": (b'["text"]', "BG302", "bad_lines"),
    "two objects": (b'{"text": "a"} {"text": "b"}', "BG302", "bad_lines"),
    "nested too deeply": (b"[" * 100_000, "BG302", "bad_lines"),
    "null": (b'{"text": null}', "BG303", "no_text"),
    "a number": (b'{"text": 3}', "BG303", "no_text"),
    "a list": (b'{"text": ["a"]}', "BG303", "no_text"),
    "another column": (b'{"txt": "two"}', "BG212", "no_text"),
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_lines(case: str, end: str, tmp_path: Path) -> None:
    line, code, count = BAD_LINES[case]
    ending = end.encode()
    (path := tmp_path / "t.jsonl").write_bytes(b'{"text": "one"}' + ending * 2 + line + ending + b'{"text": "three"}')
    error = read_error(path)
    assert (error.code, error.path) == (code, f"{path}:3")
    assert len(error.message) < 120
    assert documents(path, "skip") == ([b"one", b"three"], {count: 1})
    assert documents(path, "replace") == ([b"one", b"three"], {count: 1})


def test_truncated_last_line(tmp_path: Path) -> None:
    (path := tmp_path / "t.jsonl").write_bytes(b'{"text": "one"}\n{"text": "two\x1b[0m')
    assert (read_error(path).code, read_error(path).path) == ("BG302", f"{path}:2")
    assert documents(path, "skip") == ([b"one"], {"bad_lines": 1})


@pytest.mark.parametrize("kind", ["large_string", "string_view", "binary", "large_binary", "binary_view", "dictionary"])
def test_text_columns_of_every_type(kind: str, tmp_path: Path) -> None:
    texts = pa.array(
        ["one", "two"], pa.dictionary(pa.int8(), pa.string()) if kind == "dictionary" else getattr(pa, kind)()
    )
    write_table(tmp_path / "t.arrow", pa.table({"text": texts}))
    assert documents(tmp_path / "t.arrow")[0] == [b"one", b"two"]


@pytest.mark.parametrize("values", [[1, 2], [1.5], [["a"]], [{"a": "b"}], [True], [None]])
@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_columns_that_are_not_text(form: str, values: list[Any], tmp_path: Path) -> None:
    write_table(path := tmp_path / f"t.{form}", pa.table({"text": values}))
    assert read_error(path).code == "BG303"


def test_nulls(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", None, "three"]}), path := tmp_path / "t.parquet")
    error = read_error(path)
    assert error.code == "BG303"
    assert "row 1" in str(error.path)
    assert documents(path, "skip") == ([b"one", b"three"], {"no_text": 1})


def test_csv_rows_with_too_many_cells(tmp_path: Path) -> None:
    (path := tmp_path / "t.csv").write_bytes(b"id,text\n1,one\n2,two,2\n3,three\n")
    error = read_error(path)
    assert error.exit_code == 3
    assert "3" in str(error.cause)
    assert documents(path, "skip") == ([b"one", b"three"], {"bad_lines": 1})
