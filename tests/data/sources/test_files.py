"""Resolving sources: files, globs, folders and tinyworld in canonical order, and their input splits."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertgpt.data.sources import source
from bertgpt.data.sources.resolve import resolve_sources
from bertgpt.data.sources.source import InputSplit, ReadOptions
from bertgpt.data.sources.splits import input_splits
from bertgpt.utils.errors import BertGPTError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two text files, one in a subfolder, and others that are not text."""
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    (tmp_path / "texts" / "b.txt").write_text("bee")
    (tmp_path / "texts" / "deep" / "a.jsonl").write_text('{"text": "ay"}\n')
    (tmp_path / "texts" / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "texts" / ".hidden.txt").write_text("hidden")
    (tmp_path / "texts" / "folder.txt").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*wanted: str) -> list[str]:
    return [source.name for source in resolve_sources(wanted)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["texts"], ["a.jsonl", "b.txt"]),
        (["texts/"], ["a.jsonl", "b.txt"]),
        (["texts/b.txt", "texts/deep/a.jsonl"], ["a.jsonl", "b.txt"]),
        (["texts/deep/a.jsonl", "texts/b.txt"], ["a.jsonl", "b.txt"]),
        (["texts/**/*.jsonl"], ["a.jsonl"]),
        (["texts/*"], ["b.txt"]),
        (["texts/*", "texts/deep"], ["a.jsonl", "b.txt"]),
        (["texts/b.txt", "tinyworld"], ["b.txt", "tinyworld"]),
        (["tinyworld:7", "tinyworld"], ["tinyworld", "tinyworld:7"]),
    ],
)
def test_files_globs_folders_and_tinyworld(wanted: list[str], expected: list[str], folder: Path) -> None:
    assert names(*wanted) == expected


def test_files_of_one_name_are_ordered_by_content(folder: Path) -> None:
    for name, text in (("x", "2"), ("y", "1"), ("z", "3")):
        (folder / name).mkdir()
        (folder / name / "same.txt").write_text(text)
    first, second = resolve_sources(["x/same.txt", "y/same.txt", "z/same.txt"]), resolve_sources(["z", "y", "x"])
    assert [source.manifest_entry() for source in first] == [source.manifest_entry() for source in second]
    assert [source.sha256 for source in first] == sorted(source.sha256 for source in first)


def test_manifest_entry_is_independent_of_the_folder(folder: Path) -> None:
    [relative], [absolute] = resolve_sources(["texts/b.txt"]), resolve_sources([str(folder / "texts" / "b.txt")])
    assert (
        relative.manifest_entry()
        == absolute.manifest_entry()
        == {"name": "b.txt", "bytes": 3, "sha256": relative.sha256}
    )


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("a.txt", ("txt", None)),
        ("a.TXT.GZ", ("txt", "gzip")),
        ("a.b.jsonl.zst", ("jsonl", "zstd")),
        ("a.ndjson", ("jsonl", None)),
        ("a.parquet", ("parquet", None)),
        ("a.tsv", ("tsv", None)),
        ("a.gz", None),
        ("txt", None),
        ("a.png", None),
    ],
)
def test_format_by_extension(name: str, format_: tuple[str, str | None] | None) -> None:
    assert source.detect_format(Path(name)) == format_


INVALID = {
    "twice": (["texts/b.txt", "texts/b.txt"], "source given twice"),
    "twice by two names": (["texts/b.txt", "texts/../texts/b.txt"], "source given twice"),
    "twice by file and glob": (["texts/b.txt", "texts/*.txt"], "source given twice"),
    "twice by file and folder": (["texts", "texts/b.txt"], "source given twice"),
    "the same tinyworld twice": (["tinyworld", "tinyworld:0"], "source given twice"),
    "a glob that matches nothing": (["texts/*.csv"], "texts/*.csv"),
    "no such file": (["texts/b.tx"], "did you mean b.txt?"),
    "misspelled tinyworld": (["tinywrold"], "did you mean tinyworld?"),
    "invalid tinyworld seed": (["tinyworld:x"], "tinyworld:SEED"),
    "unsupported format": (["texts/picture.png"], ".jsonl"),
    "an empty folder": (["texts/folder.txt"], "no readable text file"),
    "a glob of unsupported formats": (["texts/*.png"], "texts/*.png"),
    "a name too long for any file": (["x" * 5000], "no file matches"),
}


@pytest.mark.parametrize("case", INVALID)
def test_no_such_source(case: str, folder: Path) -> None:
    wanted, message = INVALID[case]
    with pytest.raises(BertGPTError) as error:
        resolve_sources(wanted)
    assert error.value.code == "BG211"
    assert message in str(error.value)


def test_no_match_names_the_working_directory(folder: Path) -> None:
    with pytest.raises(BertGPTError) as error:
        resolve_sources(["*.parquet"])
    assert str(folder) in str(error.value.cause)


def spans(splits: list[InputSplit]) -> list[tuple[int, int]]:
    return [(split.start, split.stop) for split in splits]


def test_splits_cover_a_file_without_gaps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertgpt.data.sources.splits.MIN_SPLIT_BYTES", 10)
    (folder / "long.txt").write_bytes(b"x" * 35)
    assert spans(input_splits(resolve_sources(["long.txt"]), ReadOptions(), None)) == [
        (0, 10),
        (10, 20),
        (20, 30),
        (30, 35),
    ]
    assert spans(input_splits(resolve_sources(["long.txt"]), ReadOptions(txt_documents="file"), None)) == [(0, -1)]


def test_splits_do_not_depend_on_order_or_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertgpt.data.sources.splits.MIN_SPLIT_BYTES", 2)
    (folder / "moved").mkdir()
    for name in ("b.txt", "deep/a.jsonl"):
        (folder / "moved" / Path(name).name).write_bytes((folder / "texts" / name).read_bytes())
    one, two, three = (
        [split.task_key() for split in input_splits(resolve_sources(wanted), ReadOptions(), None)]
        for wanted in (["texts"], ["texts/b.txt", "texts/deep/a.jsonl"], ["moved/b.txt", "moved/a.jsonl"])
    )
    assert one == two == three
    assert len(one) > 5


def test_splits_of_row_groups(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertgpt.data.sources.splits.MIN_SPLIT_BYTES", 6000)
    table = pa.table({"text": [f"{i:0>1000}" for i in range(20)]})
    pq.write_table(table, folder / "t.parquet", row_group_size=2, use_dictionary=False)
    splits = spans(input_splits(resolve_sources(["t.parquet"]), ReadOptions(), None))
    assert 1 < len(splits) < 10
    assert [start for start, _ in splits] == [0, *(stop for _, stop in splits[:-1])]
    assert splits[-1][1] == 10


def test_splits_of_tinyworld_end_at_the_limit() -> None:
    splits = input_splits(resolve_sources(["tinyworld"]), ReadOptions(), 20_000)
    assert spans(splits) == [(0, 8192), (8192, 16384), (16384, 20000)]
    with pytest.raises(BertGPTError, match="tinyworld is infinite") as error:
        input_splits(resolve_sources(["tinyworld"]), ReadOptions(), None)
    assert error.value.code == "BG203"
