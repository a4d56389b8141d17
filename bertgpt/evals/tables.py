"""Rows of small files with columns: csv, tsv, jsonl, parquet, also compressed, as they were published."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from bertgpt.data.sources.chunks import missing_column, open_bytes, unreadable_error
from bertgpt.data.sources.files import local_sources
from bertgpt.data.sources.source import Source
from bertgpt.utils.errors import BertGPTError

Row = dict[str, Any]


def read_records(name: str, columns: Sequence[str] = ()) -> list[Row]:
    """The rows of one file; `columns` names those of a csv that has no header."""
    path = Path(name)
    source = Source(path.name, 0, "csv", path=name) if path.suffix == ".tsv" else local_sources(name)[0]
    try:
        with open_bytes(source) as file:
            if source.format == "parquet":
                import pyarrow.parquet as pq

                found: list[Row] = pq.read_table(io.BytesIO(file.read())).to_pylist()
            elif source.format == "jsonl":
                found = [json.loads(line) for line in file.read().decode("utf-8-sig").split("\n") if line.strip()]
            elif source.format == "csv":
                found = parse_delimited(file.read().decode("utf-8-sig"), path, columns)
            else:
                raise BertGPTError("BG211", f"{name} has no columns", hint="give csv, tsv, jsonl or parquet")
    except UnicodeDecodeError as error:
        raise BertGPTError("BG301", "this file is not UTF-8", path=name, cause=f"byte {error.start:,}") from None
    except json.JSONDecodeError as error:
        raise BertGPTError("BG302", "a line is not JSON", path=name, cause=str(error)) from None
    except (OSError, ValueError) as error:
        raise unreadable_error(source, error) from None
    if not found:
        raise BertGPTError("BG310", "there are no rows in this file", path=name)
    return found


def parse_delimited(text: str, path: Path, columns: Sequence[str]) -> list[Row]:
    """Rows of csv, or of tsv, whose fields are never quoted."""
    csv.field_size_limit(1 << 30)
    if path.suffix == ".tsv":
        lines = [line.rstrip("\r").split("\t") for line in text.split("\n") if line.strip()]
    else:
        lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    if not lines:
        return []
    names = list(columns) or lines.pop(0)
    for number, line in enumerate(lines, 1 if columns else 2):
        if len(line) != len(names):
            cause = f"row {number} has {len(line)} fields, where there are {len(names)} columns"
            raise BertGPTError("BG303", "a row has another number of fields", path=str(path), cause=cause)
    return [dict(zip(names, line, strict=True)) for line in lines]


def text_column(rows: Sequence[Row], column: str, where: str, option: str = "--text-column") -> list[str]:
    """A column of texts."""
    if column not in rows[0]:
        raise missing_column(column, rows[0], where, option)
    found = [row[column] for row in rows]
    for number, text in enumerate(found):
        if not isinstance(text, str):
            cause = f"row {number} holds {type(text).__name__}"
            raise BertGPTError("BG303", f"the column {column} holds no text", path=where, cause=cause)
    return found


def label_column(rows: Sequence[Row], column: str, where: str) -> list[str]:
    """A column of classes, by their names."""
    if column not in rows[0]:
        raise missing_column(column, rows[0], where, "--label-column")
    found = [row[column] for row in rows]
    if any(label is None or str(label).strip() in ("", "-1") for label in found):
        cause = "labels that are -1 or empty: this is a test set whose answers are kept back"
        raise BertGPTError("BG322", "some rows have no label", path=where, cause=cause)
    return [str(label) for label in found]


def read_agnews(file: Path) -> list[Row]:
    """AG News, as it was published without a header (class, title, description), or with one (label, text)."""
    with file.open(encoding="utf-8") as opened:
        headed = opened.readline().strip().replace('"', "") == "label,text"
    if headed:
        return read_records(str(file))
    rows = read_records(str(file), ("label", "title", "description"))
    return [{"label": row["label"], "text": f"{row['title']} {row['description']}"} for row in rows]


def round_robin(parts: Sequence[Iterable[Row]], most: int | None) -> list[Row]:
    """All items of all parts; or so many, the first of each, then the second of each, ..."""
    if most is None:
        return list(chain.from_iterable(parts))
    turns = zip_longest(*(islice(part, most // len(parts) + 1) for part in parts))
    return [row for turn in turns for row in turn if row is not None][:most]


def stratified_head(rows: list[Row], column: str, most: int | None) -> list[Row]:
    """All rows; or so many, alike of each of the kinds that a column names, which they may be sorted by."""
    if most is None:
        return rows
    kinds: dict[Any, list[Row]] = {}
    for row in rows:
        kinds.setdefault(row.get(column), []).append(row)
    return round_robin(list(kinds.values()), most)
