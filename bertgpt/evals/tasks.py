"""Labeled datasets for fine-tuning, linear probes and contamination checks.

A task is a published dataset (GLUE, AG News, IMDB), a tinyworld counterpart of one, or a labeled file. Each has a
training split and a test split; test data is never used for model selection.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bertgpt.config.corpora import CORPORA
from bertgpt.evals.tables import (
    HIDDEN_LABELS,
    Row,
    column_values,
    hidden_labels_error,
    label_column,
    read_agnews,
    read_records,
    stratified_head,
    text_column,
)
from bertgpt.tinyworld import World, examples
from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr

GLUE, GLUE_COMMIT = "nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
TINYWORLD_TRAIN, TINYWORLD_TEST = 4000, 1000
MAX_CLASSES = 50  # more distinct numbers than this in a label column make it a regression task
ProblemType = Literal["auto", "classification", "regression"]
Columns = tuple[str, str | None, str]  # names of the columns of the text, of a second text, and of the label


@dataclass(frozen=True)
class LabeledTask:
    """Where a published dataset of labeled texts or text pairs is, and how to read it."""

    repository: str
    revision: str
    subset: str | None
    columns: tuple[str, ...]  # on the hub: one or two text columns, then the label column
    labels: tuple[str, ...]  # class names in the order of their ids; empty for regression
    metrics: tuple[str, ...]  # the first one selects the model
    folder: str  # holds the files as published
    test_split: str = "validation"  # on the hub
    files: tuple[str, str] = ("train.tsv", "dev.tsv")
    local_columns: tuple[str, ...] = ()  # `columns` of those files, where they differ
    headerless_columns: tuple[str, ...] = ()  # all columns of those files, where they have no header
    first_local_label: int = 0  # the id of the first class in those files
    sorted_by_class: bool = False  # its first rows are all of one class


def glue(subset: str, folder: str, columns: tuple[str, ...], labels: tuple[str, ...], *metrics: str,
         **options: Any) -> LabeledTask:  # fmt: skip
    """A task of GLUE (Wang et al., 2019)."""
    return LabeledTask(GLUE, GLUE_COMMIT, subset, columns, labels, metrics or ("accuracy",), folder, **options)


PAIR_COLUMNS = ("sentence1", "sentence2", "label")
ENTAILMENT_LABELS = ("entailment", "not_entailment")
TASKS = {
    "sst2": glue("sst2", "SST-2", ("sentence", "label"), ("negative", "positive")),
    "cola": glue("cola", "CoLA", ("sentence", "label"), ("unacceptable", "acceptable"), "matthews", "accuracy",
                 headerless_columns=("source", "label", "mark", "sentence")),
    "mrpc": glue("mrpc", "MRPC", PAIR_COLUMNS, ("not_equivalent", "equivalent"), "f1", "accuracy",
                 local_columns=("#1 String", "#2 String", "Quality")),
    "stsb": glue("stsb", "STS-B", PAIR_COLUMNS, (), "pearson", "spearman",
                 local_columns=("sentence1", "sentence2", "score")),
    "qqp": glue("qqp", "QQP", ("question1", "question2", "label"), ("not_duplicate", "duplicate"), "f1", "accuracy",
                local_columns=("question1", "question2", "is_duplicate")),
    "mnli": glue("mnli", "MNLI", ("premise", "hypothesis", "label"), ("entailment", "neutral", "contradiction"),
                 test_split="validation_matched", files=("train.tsv", "dev_matched.tsv"),
                 local_columns=("sentence1", "sentence2", "gold_label")),
    "qnli": glue("qnli", "QNLI", ("question", "sentence", "label"), ENTAILMENT_LABELS),
    "rte": glue("rte", "RTE", PAIR_COLUMNS, ENTAILMENT_LABELS),
    "wnli": glue("wnli", "WNLI", PAIR_COLUMNS, ENTAILMENT_LABELS[::-1]),
    "agnews": LabeledTask(
        CORPORA["agnews"].repository, CORPORA["agnews"].revision, None, ("text", "label"),
        ("World", "Sports", "Business", "Sci/Tech"), ("accuracy",), "agnews", test_split="test",
        files=("train*.csv", "test.csv"), first_local_label=1,
    ),
    "imdb": LabeledTask(
        "stanfordnlp/imdb", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31", None, ("text", "label"), ("neg", "pos"),
        ("accuracy",), "aclImdb", test_split="test", files=("train", "test"), sorted_by_class=True,
    ),
}  # fmt: skip
TINYWORLD_TASKS = ("topic", "sentiment", "acceptability")  # counterparts of AG News, SST-2 and CoLA


@dataclass(frozen=True)
class LabeledSplit:
    """Texts or text pairs with their labels: class names, or numbers."""

    texts: list[str]
    second_texts: list[str] | None  # of text pairs
    labels: list[str] | list[float]

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, indices: Sequence[int]) -> "LabeledSplit":
        """The examples with these indices."""
        second_texts = None if self.second_texts is None else [self.second_texts[i] for i in indices]
        labels: Any = [self.labels[i] for i in indices]
        return LabeledSplit([self.texts[i] for i in indices], second_texts, labels)

    def label_ids(self, classes: Sequence[str]) -> NDArray[Any]:
        """Labels as class ids; without classes, the labels themselves, which are numbers."""
        if not classes:
            return np.array(self.labels, np.float32)
        ids = {name: number for number, name in enumerate(classes)}
        return np.array([ids[str(label)] for label in self.labels], np.int64)

    def joined_texts(self) -> list[str]:
        """Each example as one text, for TF-IDF, embeddings and hashes."""
        pairs = zip(self.texts, self.second_texts or [""] * len(self.texts), strict=True)
        return [f"{text} {second}".rstrip() if second else text for text, second in pairs]


@dataclass(frozen=True)
class LabeledDataset:
    """The splits of a task."""

    name: str
    train: LabeledSplit
    test: LabeledSplit
    classes: tuple[str, ...]  # names in the order of their ids; empty for regression
    metrics: tuple[str, ...]  # the first one selects the model
    revision: dict[str, str] = field(default_factory=dict)  # hub repository -> commit

    @property
    def metadata(self) -> dict[str, str]:
        """Provenance: a commit of the hub, else the hash of the texts."""
        return self.revision or {"texts": self.texts_sha256}

    @property
    def texts_sha256(self) -> str:
        """SHA-256 of all texts and labels."""
        digest = sha256()
        for split in (self.train, self.test):
            for text, label in zip(split.joined_texts(), split.labels, strict=True):
                digest.update(f"{len(text)}:{text}{label}".encode(errors="surrogatepass"))
        return digest.hexdigest()


def load_task(name: str, data: str | None, test_data: str | None, columns: Columns, problem_type: ProblemType,
              limit: int | None, revision: str | None) -> LabeledDataset:  # fmt: skip
    """Load a dataset by task name or file name. `limit` keeps the first rows of each split."""
    if name in TINYWORLD_TASKS:
        sizes = [min(size, limit or size) for size in (TINYWORLD_TRAIN, TINYWORLD_TEST)]
        return load_tinyworld_task(name, *sizes)
    if name in TASKS:
        return load_published_task(name, data, limit, revision)
    if not Path(name).is_file():
        known = (*TASKS, *TINYWORLD_TASKS)
        hint = did_you_mean(name, known) or f"the tasks are {', '.join(known)}; or give a file"
        raise BertGPTError("BG211", f"no such task or file: {short_repr(name)}", hint=hint)
    return load_file_task(name, test_data, columns, problem_type, limit)


def load_tinyworld_task(name: str, train_size: int, test_size: int) -> LabeledDataset:
    """Generate a tinyworld task."""
    splits = []
    for split, size in (("train", train_size), ("dev", test_size)):
        rows = list(islice(examples(World(0), name, split), size))
        splits.append(LabeledSplit([row["text"] for row in rows], None, [str(row["label"]) for row in rows]))
    classes = tuple(sorted({str(label) for split in splits for label in split.labels}))
    metrics = ("matthews", "accuracy") if name == "acceptability" else ("accuracy",)
    return LabeledDataset(name, splits[0], splits[1], classes, metrics, {"tinyworld": "0"})


# ----------------------------------------------------------------------------------------- published datasets


def load_published_task(name: str, data: str | None, limit: int | None, revision: str | None) -> LabeledDataset:
    """Load a published dataset: from the hub, or from `data`, a folder with its files as published."""
    task = TASKS[name]
    commit = revision or task.revision
    splits = []
    for split, pattern in zip(("train", task.test_split), task.files, strict=True):
        if data is None:
            splits.append(parse_rows(task, load_hub_rows(task, split, limit, commit), task.columns, task.repository))
            continue
        file = find_split_file(task, Path(data), pattern)
        rows = read_split_file(task, file)
        columns = task.local_columns if task.local_columns and task.local_columns[-1] in rows[0] else task.columns
        splits.append(parse_rows(task, head(task, rows, limit), columns, str(file), task.first_local_label))
    source = {task.repository: commit} if data is None else {}
    return LabeledDataset(name, splits[0], splits[1], task.labels, task.metrics, source)


def load_hub_rows(task: LabeledTask, split: str, limit: int | None, revision: str) -> list[Row]:
    """The rows of a split on the hub."""
    from bertgpt.data.sources.hub import stream_dataset, translate_datasets_errors

    with translate_datasets_errors(task.repository):
        rows = stream_dataset(task.repository, revision, task.subset, split)
        return head(task, list(rows if task.sorted_by_class else islice(rows, limit)), limit)


def head(task: LabeledTask, rows: list[Row], limit: int | None) -> list[Row]:
    """The first rows; of each class, where rows are sorted by class."""
    return stratified_head(rows, task.columns[-1], limit) if task.sorted_by_class else rows[:limit]


def find_split_file(task: LabeledTask, data: Path, pattern: str) -> Path:
    """The file or folder of a split: in `data`, in the task's folder in it, or in that of GLUE."""
    for folder in (data / "glue" / task.folder, data / task.folder, data):
        matches = sorted(folder.glob(pattern)) if folder.is_dir() else []
        if matches:
            return matches[0]
    raise BertGPTError("BG211", f"file not found: {task.folder}/{pattern}", path=str(data))


def read_split_file(task: LabeledTask, path: Path) -> list[Row]:
    """The rows of a published file, or of a folder with a file for each text."""
    if path.is_dir():
        return read_imdb_folder(path)
    if task.folder == "agnews":
        return read_agnews(path)
    rows = read_records(str(path), task.headerless_columns)
    if task.headerless_columns and task.columns[0] in rows[0].values():  # this copy has a header
        rows = read_records(str(path))
    return rows


def read_imdb_folder(folder: Path) -> list[Row]:
    """The reviews of an IMDB split: a folder for each class, a file for each text."""
    rows = [
        {"text": file.read_text(encoding="utf-8"), "label": label}
        for label in ("neg", "pos")
        for file in sorted((folder / label).glob("*.txt"), key=lambda file: file.name)
    ]
    if not rows:
        raise BertGPTError("BG310", "no texts in pos/ and neg/", path=str(folder))
    return rows


def parse_rows(task: LabeledTask, rows: Sequence[Row], columns: tuple[str, ...], where: str,
               first_label: int = 0) -> LabeledSplit:  # fmt: skip
    """Texts and labels of rows; `first_label` is the id of the first class in them."""
    *text_columns, label = columns
    texts = [text_column(rows, column, where) for column in text_columns]
    labels: Any = [
        class_name(value, task, where, first_label) if task.labels else parse_number(value, where)
        for value in column_values(rows, label, where)
    ]
    return LabeledSplit(texts[0], texts[1] if len(texts) > 1 else None, labels)


def class_name(value: Any, task: LabeledTask, where: str, first_label: int) -> str:
    """The class of a label that is a class name or a class id."""
    text = str(value).strip()
    if text in task.labels:
        return text
    if text.isdecimal() and first_label <= int(text) < first_label + len(task.labels):
        return task.labels[int(text) - first_label]
    if text in HIDDEN_LABELS:
        raise hidden_labels_error(where)
    cause = f"{short_repr(text)}; labels are {', '.join(task.labels)}, or their ids from {first_label}"
    hint = "are the columns in their published order?"
    raise BertGPTError("BG322", "unknown label", path=where, cause=cause, hint=hint)


def parse_number(value: Any, where: str) -> float:
    """The label of a regression task."""
    try:
        return float(value)
    except (TypeError, ValueError):
        cause = f"not a number: {short_repr(value)}"
        raise BertGPTError("BG322", "regression labels must be numbers", path=where, cause=cause) from None


# --------------------------------------------------------------------------------------------- labeled files


def load_file_task(file: str, test_file: str | None, columns: Columns, problem_type: ProblemType,
                   limit: int | None) -> LabeledDataset:  # fmt: skip
    """Load a labeled file. Every fifth row is test data, unless there is a test file."""
    splits = [read_labeled_file(name, columns) for name in (file, test_file) if name is not None]
    if test_file is None:
        indices = range(len(splits[0]))
        splits = [splits[0].select([i for i in indices if (i % 5 == 4) == is_test]) for is_test in (False, True)]
    if not all(map(len, splits)):
        hint = "every fifth row is test data: give at least five rows, or a test file with --test-data"
        raise BertGPTError("BG310", "too few rows for a test split", path=file, hint=hint)
    train_labels, test_labels = ([str(label) for label in split.labels] for split in splits)
    classes: tuple[str, ...] = ()
    if problem_type == "regression" or (problem_type == "auto" and is_regression(train_labels)):
        files = (file, test_file or file)
        splits = [
            replace(split, labels=[parse_number(label, name) for label in split.labels])
            for split, name in zip(splits, files, strict=True)
        ]
    else:
        classes = tuple(sorted(set(train_labels), key=class_sort_key))
        check_classes(classes, test_labels, file)
    metrics = ("accuracy", "matthews") if classes else ("pearson", "spearman")
    train, test = (split.select(range(len(split))[:limit]) for split in splits)
    return LabeledDataset(Path(file).name, train, test, classes, metrics)


def read_labeled_file(file: str, columns: Columns) -> LabeledSplit:
    """The texts of a file, with labels as strings."""
    text, second, label = columns
    rows = read_records(file)
    labels = label_column(rows, label, file)
    second_texts = None if second is None else text_column(rows, second, file, "--pair-column")
    return LabeledSplit(text_column(rows, text, file), second_texts, labels)


def is_regression(values: Sequence[str]) -> bool:
    """Whether labels are numbers rather than class ids: fractions, or more than `MAX_CLASSES` distinct ones."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return False
    return any(number % 1 for number in numbers) or len(set(numbers)) > MAX_CLASSES


def class_sort_key(label: str) -> tuple[float, str]:
    """Sorts numbers by value, then names alphabetically."""
    try:
        return float(label), label
    except ValueError:
        return float("inf"), label


def check_classes(classes: Sequence[str], test_labels: Sequence[str], where: str | None = None) -> None:
    """Require at least two classes in the training data, and no others in the test data."""
    if len(classes) < 2:
        raise BertGPTError("BG322", "only one class in the training data", path=where, cause=f"all are {classes[0]}")
    unseen = sorted(set(test_labels) - set(classes))
    if unseen:
        cause = f"{', '.join(unseen[:5])}; training labels are {', '.join(classes[:8])}"
        raise BertGPTError("BG322", "test labels missing from the training data", path=where, cause=cause)
