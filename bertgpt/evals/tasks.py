"""Tasks with labels: sets that others made, tinyworld's twins of them, and files of one's own.

Each has a part to learn from and one that scores are reported of, which no choice ever looks at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from bertgpt.config.corpora import CORPORA
from bertgpt.evals.tables import Row, read_agnews, read_records, stratified_head, text_column
from bertgpt.tinyworld import World, examples
from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr

GLUE, GLUE_COMMIT = "nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
TWIN_TRAIN, TWIN_DEV = 4000, 1000
MOST_CLASSES = 50  # in a file that does not say what its labels are
Kind = Literal["auto", "classification", "regression"]


@dataclass(frozen=True)
class Task:
    """A set of labelled texts, or of pairs of texts."""

    about: str
    repository: str
    revision: str
    subset: str | None
    columns: tuple[str, ...]  # on the hub: of the text, perhaps of a second one, and of the label
    labels: tuple[str, ...]  # classes in their order; none: numbers
    metrics: tuple[str, ...]  # what models are chosen by first
    folder: str  # of the files as they were published
    dev: str = "validation"  # the split that is reported, on the hub
    files: tuple[str, str] = ("train.tsv", "dev.tsv")
    local: tuple[str, ...] = ()  # the columns in those files, where they are called otherwise
    columns_without_header: tuple[str, ...] = ()  # the columns of files without a header
    by_class: bool = False  # whether it is sorted by its classes, so that its first texts would be of one


def glue(about: str, subset: str, folder: str, columns: tuple[str, ...], labels: tuple[str, ...], *metrics: str,
         **other: Any) -> Task:  # fmt: skip
    """One of GLUE's (Wang et al., 2019)."""
    return Task(about, GLUE, GLUE_COMMIT, subset, columns, labels, metrics or ("accuracy",), folder, **other)


PAIR_COLUMNS = ("sentence1", "sentence2", "label")
ENTAILMENT_LABELS = ("entailment", "not_entailment")
TASKS = {
    "sst2": glue("is a sentence of a review positive", "sst2", "SST-2", ("sentence", "label"),
                 ("negative", "positive")),
    "cola": glue("is a sentence acceptable English", "cola", "CoLA", ("sentence", "label"),
                 ("unacceptable", "acceptable"), "matthews", "accuracy",
                 columns_without_header=("source", "label", "mark", "sentence")),
    "mrpc": glue("do two sentences say the same", "mrpc", "MRPC", PAIR_COLUMNS, ("not_equivalent", "equivalent"),
                 "f1", "accuracy", local=("#1 String", "#2 String", "Quality")),
    "stsb": glue("how alike are two sentences, 0 to 5", "stsb", "STS-B", PAIR_COLUMNS, (), "pearson", "spearman",
                 local=("sentence1", "sentence2", "score")),
    "qqp": glue("do two questions ask the same", "qqp", "QQP", ("question1", "question2", "label"),
                ("not_duplicate", "duplicate"), "f1", "accuracy", local=("question1", "question2", "is_duplicate")),
    "mnli": glue("does one sentence follow from another", "mnli", "MNLI", ("premise", "hypothesis", "label"),
                 ("entailment", "neutral", "contradiction"), dev="validation_matched",
                 files=("train.tsv", "dev_matched.tsv"), local=("sentence1", "sentence2", "gold_label")),
    "qnli": glue("does a sentence answer a question", "qnli", "QNLI", ("question", "sentence", "label"), ENTAILMENT_LABELS),
    "rte": glue("does one sentence follow from another", "rte", "RTE", PAIR_COLUMNS, ENTAILMENT_LABELS),
    "wnli": glue("whom does a pronoun mean", "wnli", "WNLI", PAIR_COLUMNS, ENTAILMENT_LABELS[::-1]),
    "agnews": Task("what is a piece of news about", "fancyzhx/ag_news", CORPORA["agnews"].revision, None,
                   ("text", "label"), ("World", "Sports", "Business", "Sci/Tech"), ("accuracy",), "agnews",
                   dev="test", files=("train*.csv", "test.csv")),
    "imdb": Task("is a review of a film positive", "stanfordnlp/imdb", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
                 None, ("text", "label"), ("neg", "pos"), ("accuracy",), "aclImdb", dev="test",
                 files=("train", "test"), by_class=True),
}  # fmt: skip
TINYWORLD_TASKS = ("topic", "sentiment", "acceptability")  # of tinyworld, as AG News, SST-2 and CoLA


@dataclass(frozen=True)
class LabelledSplit:
    """Texts with their labels: classes by name, or numbers."""

    texts: list[str]
    others: list[str] | None  # the second texts of pairs
    labels: list[str] | list[float]

    def __len__(self) -> int:
        return len(self.texts)

    def only(self, numbers: Sequence[int]) -> "LabelledSplit":
        """Some of them."""
        others = None if self.others is None else [self.others[i] for i in numbers]
        labels: Any = [self.labels[i] for i in numbers]
        return LabelledSplit([self.texts[i] for i in numbers], others, labels)

    def joined(self) -> list[str]:
        """Each as one text, for those who count words."""
        others = self.others or [""] * len(self.texts)
        return [f"{text} {other}".rstrip() if other else text for text, other in zip(self.texts, others, strict=True)]


def of_rows(rows: Sequence[Row]) -> LabelledSplit:
    """Texts and classes of rows that call them so."""
    return LabelledSplit([str(row["text"]) for row in rows], None, [str(row["label"]) for row in rows])


@dataclass(frozen=True)
class LabelledDataset:
    """A task with its texts."""

    name: str
    train: LabelledSplit
    dev: LabelledSplit  # what is reported
    classes: tuple[str, ...]  # none: numbers
    metrics: tuple[str, ...]
    facts: dict[str, str]  # where it comes from, by hash

    @property
    def identity(self) -> str:
        """A hash of all of it."""
        digest = sha256()
        for part in (self.train, self.dev):
            for text, label in zip(part.joined(), part.labels, strict=True):
                digest.update(f"{len(text)}:{text}{label}".encode(errors="surrogatepass"))
        return digest.hexdigest()


def load_task(name: str, data: str | None, test_data: str | None, columns: tuple[str, str | None, str], kind: Kind,
             limit: int | None, revision: str | None) -> LabelledDataset:  # fmt: skip
    """The texts of a task, by its name, or of files of one's own; `limit` takes the first of each part."""
    if name in TINYWORLD_TASKS:
        return load_tinyworld_task(name, limit)
    if name in TASKS:
        return load_published_task(name, data, limit, revision)
    if not Path(name).is_file():
        known = (*TASKS, *TINYWORLD_TASKS)
        near = did_you_mean(name, known) or f"the tasks are {', '.join(known)}; or give a file"
        raise BertGPTError("BG211", f"there is no task and no file {short_repr(name)}", hint=near)
    return load_file_task(name, test_data, columns, kind, limit)


def load_tinyworld_task(name: str, limit: int | None) -> LabelledDataset:
    """A task of tinyworld."""
    parts = []
    for split, most in (("train", TWIN_TRAIN), ("dev", TWIN_DEV)):
        parts.append(of_rows(list(islice(examples(World(0), name, split), min(most, limit or most)))))
    metrics = ("matthews", "accuracy") if name == "acceptability" else ("accuracy",)
    classes = tuple(sorted({str(label) for part in parts for label in part.labels}))
    return LabelledDataset(name, parts[0], parts[1], classes, metrics, {"tinyworld": "0"})


# ---------------------------------------------------------------------------------------------- published sets


def load_published_task(name: str, data: str | None, limit: int | None, revision: str | None) -> LabelledDataset:
    """One that others made: from the hub, or in its files as they were published."""
    task, facts = TASKS[name], dict[str, str]()
    parts = []
    for split, pattern in zip(("train", task.dev), task.files, strict=True):
        if data is None:
            rows, where = from_hub(task, split, limit, revision or task.revision), task.repository
            facts[task.repository] = revision or task.revision
            parts.append(part_of(task, rows, task.columns, where))
            continue
        file = file_of(task, Path(data), pattern)
        rows = (
            read_imdb_folder(file) if file.is_dir() else read_agnews(file) if name == "agnews" else read_tsv(task, file)
        )
        here = task.local if task.local and task.local[-1] in rows[0] else task.columns
        parts.append(part_of(task, first_of(task, rows, limit), here, str(file)))
    if data is not None:
        facts = {"texts": LabelledDataset(name, parts[0], parts[1], task.labels, task.metrics, {}).identity}
    return LabelledDataset(name, parts[0], parts[1], task.labels, task.metrics, facts)


def from_hub(task: Task, split: str, limit: int | None, revision: str) -> list[Row]:
    """A split of the hub's."""
    from bertgpt.data.sources.hub import stream_dataset, translate_datasets_errors

    with translate_datasets_errors(task.repository):
        rows = stream_dataset(task.repository, revision, task.subset, split)
        return first_of(task, list(rows if task.by_class else islice(rows, limit)), limit)


def first_of(task: Task, rows: list[Row], limit: int | None) -> list[Row]:
    """So many of a set's texts."""
    return stratified_head(rows, task.columns[-1], limit) if task.by_class else rows[:limit]


def file_of(task: Task, given: Path, pattern: str) -> Path:
    """The file of a split, in a folder of the task, or in one of many tasks."""
    for folder in (given / "glue" / task.folder, given / task.folder, given):
        found = sorted(folder.glob(pattern)) if folder.is_dir() else []
        if found:
            return found[0]
    raise BertGPTError("BG211", f"there is no {task.folder}/{pattern} here", path=str(given))


def read_tsv(task: Task, file: Path) -> list[Row]:
    """A table, whose first line may be missing."""
    rows = read_records(str(file), task.columns_without_header)
    if task.columns_without_header and task.columns[0] in rows[0].values():  # somebody has given it a header
        rows = read_records(str(file))
    return rows


def read_imdb_folder(folder: Path) -> list[Row]:
    """A folder for each class, a file for each text."""
    rows = [
        {"text": file.read_text(encoding="utf-8"), "label": label}
        for label in ("neg", "pos")
        for file in sorted((folder / label).glob("*.txt"), key=lambda file: file.name)
    ]
    if not rows:
        raise BertGPTError("BG310", "there are no texts in pos/ and neg/", path=str(folder))
    return rows


def part_of(task: Task, rows: Sequence[Row], columns: tuple[str, ...], where: str) -> LabelledSplit:
    """Texts and labels of rows, checked against what the task knows."""
    *texts, label = columns
    found = [text_column(rows, column, where) for column in texts]
    if label not in rows[0]:
        text_column(rows, label, where)  # says what is missing
    labels = [row[label] for row in rows]
    known: Any = [number_of(value, where) if not task.labels else class_of(value, task, where) for value in labels]
    return LabelledSplit(found[0], found[1] if len(found) > 1 else None, known)


def class_of(value: Any, task: Task, where: str) -> str:
    """A class by its name, be it given by that, by its number, or as AG News counts."""
    said = str(value).strip()
    if said in task.labels:
        return said
    first = 1 if task.folder == "agnews" and where.endswith(".csv") else 0
    if said.isdecimal() and first <= int(said) < first + len(task.labels):
        return task.labels[int(said) - first]
    if said in ("-1", ""):
        cause = "labels that are -1 or empty: this is a test set whose answers are kept back"
        raise BertGPTError("BG322", "some rows have no label", path=where, cause=cause)
    cause = f"{short_repr(said)}; labels are {', '.join(task.labels)}, or their numbers from {first} on"
    hint = "are the columns in the order in which they were published?"
    raise BertGPTError("BG322", "this is no label of the task", path=where, cause=cause, hint=hint)


def number_of(value: Any, where: str) -> float:
    """A label that is a number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        cause = f"{short_repr(value)} is none"
        raise BertGPTError("BG322", "labels of a regression are numbers", path=where, cause=cause) from None


# ------------------------------------------------------------------------------------------- files of one's own


def load_file_task(name: str, test_data: str | None, columns: tuple[str, str | None, str], kind: Kind,
        limit: int | None) -> LabelledDataset:  # fmt: skip
    """A file, of which a fifth is reported unless there is another file for that."""
    parts = [read_records(file) for file in (name, test_data) if file is not None]
    text, other, label = columns
    values_of(parts[0], label, name)
    if len(parts) == 1:
        parts = [[row for i, row in enumerate(parts[0]) if (i % 5 == 4) == test] for test in (False, True)]
    if not all(parts):
        hint = "every fifth row is: give five at least, or another file with --test-data"
        raise BertGPTError("BG310", "there are too few rows to keep some apart", path=name, hint=hint)
    files = [name, test_data or name]
    texts = [text_column(part, text, file) for part, file in zip(parts, files, strict=True)]
    others = [
        None if other is None else text_column(part, other, f, "--pair-column")
        for part, f in zip(parts, files, strict=True)
    ]
    values = [values_of(part, label, file) for part, file in zip(parts, files, strict=True)]
    numbers = are_numbers(values[0]) if kind == "auto" else kind == "regression"
    known: list[Any] = [[number_of(v, f) for v in vs] if numbers else vs for vs, f in zip(values, files, strict=True)]
    made = [
        LabelledSplit(*columns).only(range(len(columns[0]))[:limit])
        for columns in zip(texts, others, known, strict=True)
    ]
    classes = () if numbers else tuple(sorted(set(values[0]), key=in_order))
    if not numbers:
        check_classes(classes, values[1], name)
    metrics = ("pearson", "spearman") if numbers else ("accuracy", "matthews")
    facts = LabelledDataset(Path(name).name, made[0], made[1], classes, metrics, {}).identity
    return LabelledDataset(Path(name).name, made[0], made[1], classes, metrics, {"texts": facts})


def values_of(rows: Sequence[Row], column: str, where: str) -> list[str]:
    """Labels as they stand in a file."""
    from bertgpt.evals.tables import label_column

    return label_column(rows, column, where)


def are_numbers(values: Sequence[str]) -> bool:
    """Whether labels are numbers that are more than names of classes: fractions, or very many."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return False
    return any(number % 1 for number in numbers) or len(set(numbers)) > MOST_CLASSES


def in_order(label: str) -> tuple[float, str]:
    """Numbers by their size, then names by the alphabet."""
    try:
        return float(label), label
    except ValueError:
        return float("inf"), label


def check_classes(classes: Sequence[str], reported: Sequence[str], where: str | None = None) -> None:
    """Two classes at least, and none that nobody could have learned."""
    if len(classes) < 2:
        raise BertGPTError("BG322", "there is one class only", path=where, cause=f"all are {classes[0]}")
    unseen = sorted(set(reported) - set(classes))
    if unseen:
        cause = f"{', '.join(unseen[:5])}; known are {', '.join(classes[:8])}"
        raise BertGPTError("BG322", "the test has labels that are not in the training part", path=where, cause=cause)
