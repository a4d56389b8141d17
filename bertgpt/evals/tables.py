"""Readers of labeled files: csv, tsv, jsonl and parquet, also compressed."""

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from bertgpt.data.sources.chunks import missing_column, open_bytes
from bertgpt.data.sources.files import local_sources
from bertgpt.data.sources.source import Source, unreadable_error
from bertgpt.utils.errors import BertGPTError, short_repr
from bertgpt.utils.json_files import parse_json

HIDDEN_LABELS = ("", "-1")
Row = dict[str, Any]


def read_records(name: str, columns: Sequence[str] = ()) -> list[Row]:
    """The rows of a file; `columns` names the columns of a csv without a header."""
    path = Path(name)
    source = Source(path.name, 0, "csv", path=name) if path.suffix == ".tsv" else local_sources(name)[0]
    try:
        with open_bytes(source) as file:
            if source.format == "parquet":
                import pyarrow.parquet as pq

                rows: list[Row] = pq.read_table(io.BytesIO(file.read())).to_pylist()
            elif source.format == "jsonl":
                lines = file.read().decode("utf-8-sig").split("\n")
                rows = [parse_row(line, f"{name}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
            elif source.format == "csv":
                rows = parse_delimited(file.read().decode("utf-8-sig"), path, columns)
            else:
                raise BertGPTError("BG211", f"file has no columns: {name}", hint="use csv, tsv, jsonl or parquet")
    except UnicodeDecodeError as error:
        raise BertGPTError("BG301", "file is not UTF-8", path=name, cause=f"byte {error.start:,}") from None
    except (OSError, ValueError) as error:
        raise unreadable_error(source.path, error) from None
    if not rows:
        raise BertGPTError("BG310", "file has no rows", path=name)
    return rows


def parse_row(line: str, location: str) -> Row:
    """A line of jsonl, which must be an object."""
    try:
        row = parse_json(line)
    except ValueError as error:
        raise BertGPTError("BG302", "a line is not JSON", path=location, cause=str(error)) from None
    if not isinstance(row, dict):
        raise BertGPTError("BG302", "a line is not a JSON object", path=location, cause=short_repr(row))
    return row


def parse_delimited(text: str, path: Path, columns: Sequence[str]) -> list[Row]:
    """Parse csv, or tsv, whose fields are never quoted (GLUE's contain lone quotes)."""
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
            cause = f"row {number} has {len(line)} fields for {len(names)} columns"
            raise BertGPTError("BG303", "wrong number of fields", path=str(path), cause=cause)
    return [dict(zip(names, line, strict=True)) for line in lines]


def column_values(rows: Sequence[Row], column: str, where: str, option: str = "--text-column") -> list[Any]:
    """The values of a column; `option` is the one that chooses it."""
    if column not in rows[0]:
        raise missing_column(column, rows[0], where, option)
    for number, row in enumerate(rows):
        if column not in row:
            raise missing_column(column, row, f"{where}, row {number}", option)
    return [row[column] for row in rows]


def text_column(rows: Sequence[Row], column: str, where: str, option: str = "--text-column") -> list[str]:
    """The values of a text column."""
    texts = column_values(rows, column, where, option)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            cause = f"row {number} holds {type(text).__name__}"
            raise BertGPTError("BG303", f"column {column} must hold text", path=where, cause=cause)
    return texts


def label_column(rows: Sequence[Row], column: str, where: str) -> list[str]:
    """The values of a label column, as strings."""
    labels = column_values(rows, column, where, "--label-column")
    if any(label is None or str(label).strip() in HIDDEN_LABELS for label in labels):
        raise hidden_labels_error(where)
    return [str(label) for label in labels]


def hidden_labels_error(where: str) -> BertGPTError:
    """The error for a test split as published for a leaderboard."""
    cause = "labels are hidden (-1 or empty): unlabeled test split"
    return BertGPTError("BG322", "some rows have no label", path=where, cause=cause)


def read_agnews(file: Path) -> list[Row]:
    """The rows of AG News, from a file without a header (label, title, description) or with one (label, text)."""
    with file.open(encoding="utf-8") as lines:
        has_header = lines.readline().strip().replace('"', "") == "label,text"
    if has_header:
        return read_records(str(file))
    rows = read_records(str(file), ("label", "title", "description"))
    return [{"label": row["label"], "text": f"{row['title']} {row['description']}"} for row in rows]


def round_robin(groups: Sequence[Iterable[Row]], limit: int | None) -> list[Row]:
    """All rows of all groups; with a limit, the first row of each group, then the second of each, and so on."""
    if limit is None:
        return list(chain.from_iterable(groups))
    rounds = zip_longest(*(islice(group, limit // len(groups) + 1) for group in groups))
    return [row for rows in rounds for row in rows if row is not None][:limit]


def stratified_head(rows: list[Row], column: str, limit: int | None) -> list[Row]:
    """All rows; with a limit, equally many of each value of a column, by which they may be sorted."""
    if limit is None:
        return rows
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.get(column), []).append(row)
    return round_robin(list(groups.values()), limit)
