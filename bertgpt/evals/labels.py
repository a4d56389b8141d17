"""Scores of fine-tuned classifiers, their text baselines, and predictions for files."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bertgpt.config.options import EvalOptions
from bertgpt.evals.metrics import compute_metric, score_over_seeds
from bertgpt.evals.probe import fit_and_predict, single_threaded_blas, tf_idf_features
from bertgpt.evals.results import EvalResult, ScoreWithInterval
from bertgpt.evals.tables import read_records, text_column
from bertgpt.evals.tasks import LabeledDataset
from bertgpt.hub.pretrained import ClassificationHead, PretrainedModel
from bertgpt.inference.classify import classify, probabilities
from bertgpt.inference.embed import embed
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import atomic_write, ensure_writable_folder

MAX_PROBE_TEXTS = 20_000  # training texts of the linear probe baseline
Labels = NDArray[Any]


def score_classifiers(
    task: LabeledDataset,
    models: Sequence[PretrainedModel],
    baselines: dict[str, ScoreWithInterval],
    metadata: dict[str, Any],
) -> EvalResult:
    """Test scores of a model fine-tuned with one or several seeds: mean over seeds, standard deviation, each seed."""
    labels = task.test.label_ids(task.classes)
    logits = [classify(model, task.test.texts, task.test.second_texts) for model in models]
    answers = [predictions(each) for each in logits]
    scores = {name: score_over_seeds(name, labels, answers) for name in task.metrics}
    main = task.metrics[0]
    notes = []
    if len(models) > 1:
        by_seed = [compute_metric(main, labels, answer) for answer in answers]
        scores[f"{main}, std over seeds"] = ScoreWithInterval(float(np.std(by_seed, ddof=1)))
        scores |= {f"{main}, seed {number}": ScoreWithInterval(value) for number, value in enumerate(by_seed, 1)}
    collapsed = [str(number) for number, answer in enumerate(answers, 1) if len(np.unique(answer)) == 1]
    if task.classes and collapsed:
        notes.append(f"collapsed: seed {', '.join(collapsed)} of {len(answers)} predicts one class only")
    items: dict[str, Any] = {"label": task.test.labels}
    for number, answer in enumerate(answers, 1):
        items["prediction" if number == 1 else f"prediction, seed {number}"] = label_names(answer, task.classes)
    if task.classes:
        items["correct"] = [float(value) for value in np.mean([answer == labels for answer in answers], axis=0)]
        items["probabilities"] = probabilities(logits[0]).round(6).tolist()
    metadata = {"data": task.metadata} | metadata
    return EvalResult(task.name, f"{task.name}.{main}/1", len(labels), scores, baselines, items, metadata, notes)


def text_baselines(task: LabeledDataset) -> dict[str, ScoreWithInterval]:
    """Baselines that need no pretrained model: the majority class (of numbers, the mean), and TF-IDF."""
    main, train, test = task.metrics[0], task.train, task.test
    labels, train_labels = test.label_ids(task.classes), train.label_ids(task.classes)
    constant = np.bincount(train_labels).argmax() if task.classes else train_labels.mean()
    features = tf_idf_features(train.joined_texts(), test.joined_texts())
    tf_idf = fit_linear(*features, train_labels, bool(task.classes), scaled=False)
    return {
        "majority class" if task.classes else "mean": score_over_seeds(main, labels, [np.full(len(labels), constant)]),
        "TF-IDF baseline": score_over_seeds(main, labels, [tf_idf]),
    }


def linear_probe_baseline(task: LabeledDataset, pretrained: PretrainedModel) -> ScoreWithInterval:
    """Score of a linear model on the features of the model before fine-tuning."""
    train = task.train.select(range(min(MAX_PROBE_TEXTS, len(task.train))))
    features = embed(pretrained, train.joined_texts()), embed(pretrained, task.test.joined_texts())
    answers = fit_linear(*features, train.label_ids(task.classes), bool(task.classes), scaled=True)
    return score_over_seeds(task.metrics[0], task.test.label_ids(task.classes), [answers])


def fit_linear(train: Any, test: Any, labels: Labels, classes: bool, scaled: bool) -> Labels:
    """Test predictions of a logistic regression, or of a ridge regression where labels are numbers."""
    if classes:
        return fit_and_predict(train, test, labels, False, scaled).predictions
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = [StandardScaler()] if scaled else []
    model = make_pipeline(*steps, RidgeCV(alphas=np.logspace(-2, 4, 7)))
    with single_threaded_blas():
        predicted: Labels = model.fit(train, labels).predict(test)
    return predicted


def predictions(logits: NDArray[np.float32]) -> Labels:
    """The most likely class ids; of a single output, its values."""
    return logits[:, 0] if logits.shape[1] == 1 else logits.argmax(axis=1)


def label_names(answers: Labels, classes: Sequence[str]) -> list[Any]:
    """Predictions as class names, or as numbers."""
    return [classes[i] for i in answers] if classes else [float(value) for value in answers]


def classification_head(pretrained: PretrainedModel, task: str) -> ClassificationHead:
    """The classification head of a fine-tuned model."""
    if pretrained.head is None:
        hint = f"bertgpt finetune {task} --model RUN --out RUN2 trains one"
        raise BertGPTError("BG222", "model has no classification head", hint=hint)
    return pretrained.head


def check_labels_match(head: ClassificationHead, task: LabeledDataset) -> None:
    """Require the labels of the task."""
    if head.labels != task.classes:
        labels = ", ".join(head.labels) or "a number"
        cause = f"it predicts {labels}; {task.name} has {', '.join(task.classes) or 'numbers'}"
        raise BertGPTError("BG222", "label set does not match the classification head", cause=cause)


def predict(pretrained: PretrainedModel, options: EvalOptions) -> dict[str, Any]:
    """Write the rows of a file with predicted labels and class probabilities, as csv, jsonl or parquet."""
    if options.data is None or options.out is None:
        missing = "--data" if options.data is None else "--out"
        raise BertGPTError("BG203", f"{missing} is missing", hint="--data FILE holds texts, --out FILE gets labels")
    out = Path(options.out)
    if out.suffix not in WRITERS:
        raise BertGPTError("BG204", f"unsupported output format: {out.name}", hint=", ".join(WRITERS))
    rows = read_records(options.data)[: options.limit]
    texts = text_column(rows, options.text_column, options.data)
    second_texts = text_column(rows, options.pair_column, options.data) if options.pair_column else None
    logits = classify(pretrained, texts, second_texts)
    assert pretrained.head is not None
    classes = pretrained.head.labels
    labels = label_names(predictions(logits), classes)
    columns: dict[str, list[Any]] = {"label" if classes else "number": labels}
    for name, probs in zip(classes, probabilities(logits).T if classes else (), strict=True):
        columns[f"p({name})"] = probs.round(6).tolist()
    given = {f"given {name}" if name in columns else name: [row.get(name) for row in rows] for name in rows[0]}
    table = pa.table({name: to_column(values) for name, values in given.items()} | columns)
    ensure_writable_folder(out.parent)
    with atomic_write(out) as temporary:
        WRITERS[out.suffix](table, temporary)
    counts = Counter(labels) if classes else Counter({"numbers": len(labels)})
    return {"path": str(out), "predicted": len(labels), "labels": dict(sorted(counts.items()))}


def to_column(values: list[Any]) -> pa.Array:
    """Values as an Arrow column; as strings, if they are of several types."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])


def write_jsonl(table: pa.Table, path: Path) -> None:
    """Write a table as JSON Lines."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
    path.write_text("".join(lines), encoding="utf-8")


def write_csv(table: pa.Table, path: Path) -> None:
    """Write a table as csv with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.column_names)
        writer.writerows(row.values() for row in table.to_pylist())


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    ".csv": write_csv, ".jsonl": write_jsonl, ".parquet": pq.write_table,
}  # fmt: skip
