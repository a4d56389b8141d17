"""What a fine-tuned model, or several seeds of it, is worth on a task, beside dumb methods."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bertgpt.config.options import EvalOptions
from bertgpt.evals.metrics import METRICS, score_over_seeds
from bertgpt.evals.probe import fit_and_predict, single_threaded_blas, tf_idf_features
from bertgpt.evals.results import EvalResult, ScoreWithInterval
from bertgpt.evals.tables import read_records, text_column
from bertgpt.evals.tasks import LabelledDataset, LabelledSplit
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.classify import classify, probabilities
from bertgpt.inference.embed import embed
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import ensure_writable_folder, write_atomic

PROBED = 20_000  # texts that a probe of frozen features, a baseline here, learns from at most
Labels = NDArray[Any]


def score_classifiers(
    task: LabelledDataset,
    models: Sequence[PretrainedModel],
    baselines: dict[str, ScoreWithInterval],
    also: dict[str, Any],
) -> EvalResult:
    """Scores of the reported part: the mean over seeds, each seed, and how far they are apart."""
    right = label_ids(task.dev, task.classes)
    logits = [classify(kept, task.dev.texts, task.dev.others) for kept in models]
    answers = [predictions(each) for each in logits]
    scores = {name: score_over_seeds(name, right, answers) for name in task.metrics}
    first = task.metrics[0]
    each = [METRICS[first](right, some) for some in answers]
    notes = []
    if len(models) > 1:
        scores[f"{first}, spread of seeds"] = ScoreWithInterval(float(np.std(each, ddof=1)))
        scores |= {f"{first}, seed {number}": ScoreWithInterval(value) for number, value in enumerate(each, 1)}
    collapsed = [str(number) for number, some in enumerate(answers, 1) if len(np.unique(some)) == 1]
    if task.classes and collapsed:
        notes.append(f"collapsed: seed {', '.join(collapsed)} of {len(answers)} says one class only")
    items: dict[str, Any] = {"label": task.dev.labels, "said": label_names(answers[0], task.classes)}
    if task.classes:
        items["correct"] = [float(value) for value in np.mean([some == right for some in answers], axis=0)]
        items["probabilities"] = probabilities(logits[0]).round(6).tolist()
    found = EvalResult(task.name, f"{task.name}.{first}/1", len(right), scores, baselines, items, notes=notes)
    found.facts = {"data": task.facts} | also
    return found


def text_baselines(task: LabelledDataset) -> dict[str, ScoreWithInterval]:
    """The commonest label, and words counted: what needs no model."""
    first, train, dev = task.metrics[0], task.train, task.dev
    right, known = label_ids(dev, task.classes), label_ids(train, task.classes)
    usual = np.bincount(known).argmax() if task.classes else known.mean()
    counted = tf_idf_features(train.joined(), dev.joined())
    return {
        "majority": score_over_seeds(first, right, [np.full(len(right), usual)]),
        "tf-idf": score_over_seeds(first, right, [fit_linear(*counted, known, bool(task.classes), False)]),
    }


def linear_probe_baseline(task: LabelledDataset, kept: PretrainedModel) -> ScoreWithInterval:
    """A linear model on the features of a model as it was before it was fine-tuned."""
    train = task.train.only(range(min(PROBED, len(task.train))))
    features = embed(kept, train.joined()), embed(kept, task.dev.joined())
    said = fit_linear(*features, label_ids(train, task.classes), bool(task.classes), True)
    return score_over_seeds(task.metrics[0], label_ids(task.dev, task.classes), [said])


def fit_linear(train: Any, dev: Any, known: Labels, classes: bool, scaled: bool) -> Labels:
    """What a linear model says: of classes, or of numbers."""
    if classes:
        return fit_and_predict(train, dev, known, False, scaled).predictions
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = [StandardScaler()] if scaled else []
    model = make_pipeline(*steps, RidgeCV(alphas=np.logspace(-2, 4, 7)))
    with single_threaded_blas():
        predicted: Labels = model.fit(train, known).predict(dev)
    return predicted


def label_ids(part: LabelledSplit, classes: Sequence[str]) -> Labels:
    """Labels as numbers: of classes, or themselves."""
    if not classes:
        return np.array(part.labels, np.float32)
    place = {name: number for number, name in enumerate(classes)}
    return np.array([place[str(label)] for label in part.labels], np.int64)


def predictions(logits: NDArray[np.float32]) -> Labels:
    """The likeliest class, or the number."""
    return logits[:, 0] if logits.shape[1] == 1 else logits.argmax(axis=1)


def label_names(answers: Labels, classes: Sequence[str]) -> list[Any]:
    """Answers under the names of classes."""
    return [classes[i] for i in answers] if classes else [float(value) for value in answers]


def check_labels_match(kept: PretrainedModel, task: LabelledDataset) -> None:
    """Whether a model was fine-tuned for labels such as these."""
    if kept.head is None:
        hint = f"bertgpt finetune {task.name} --model RUN --out RUN2 makes one that does"
        raise BertGPTError("BG222", "this model was not fine-tuned, and tells no labels", hint=hint)
    if kept.head.labels != task.classes:
        cause = f"it tells {', '.join(kept.head.labels) or 'a number'}; {task.name} has {', '.join(task.classes)}"
        raise BertGPTError("BG222", "this model was fine-tuned for other labels", cause=cause)


def predict(kept: PretrainedModel, options: EvalOptions) -> dict[str, Any]:
    """Labels and probabilities of the texts of a file, in a file: csv, jsonl or parquet by its name."""
    if options.data is None or options.out is None:
        missing = "--data" if options.data is None else "--out"
        raise BertGPTError("BG203", f"{missing} is missing", hint="--data FILE holds texts, --out FILE gets labels")
    out = Path(options.out)
    if out.suffix not in WRITERS:
        raise BertGPTError("BG204", f"{out.name} has no ending that says how to write it", hint=", ".join(WRITERS))
    rows = read_records(options.data)[: options.limit]
    texts = text_column(rows, options.text_column, options.data)
    others = text_column(rows, options.pair_column, options.data) if options.pair_column else None
    logits = classify(kept, texts, others)
    assert kept.head is not None
    labels = label_names(predictions(logits), kept.head.labels)
    columns: dict[str, list[Any]] = {"label" if kept.head.labels else "number": labels}
    for name, shares in zip(kept.head.labels, probabilities(logits).T if kept.head.labels else (), strict=True):
        columns[f"p({name})"] = shares.round(6).tolist()
    theirs = {f"given {name}" if name in columns else name: [row.get(name) for row in rows] for name in rows[0]}
    table = pa.table({name: column_of(values) for name, values in theirs.items()} | columns)
    ensure_writable_folder(out.parent)
    write_atomic(out, lambda aside: WRITERS[out.suffix](table, aside))
    counts = Counter(labels) if kept.head.labels else Counter({"numbers": len(labels)})
    return {"path": str(out), "predicted": len(labels), "labels": dict(sorted(counts.items()))}


def column_of(values: list[Any]) -> pa.Array:
    """A column of a file as it is, or in words where it is of many kinds."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])


def write_lines(table: pa.Table, path: Path) -> None:
    """One object a line."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
    path.write_text("".join(lines), encoding="utf-8")


def write_csv(table: pa.Table, path: Path) -> None:
    """With a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.column_names)
        writer.writerows(row.values() for row in table.to_pylist())


def write_parquet(table: pa.Table, path: Path) -> None:
    """As it is."""
    pq.write_table(table, path)


WRITERS = {".csv": write_csv, ".jsonl": write_lines, ".parquet": write_parquet}
