"""Linear probe: logistic regression on the features of a pretrained model, whose parameters stay frozen.

Baselines beside it: the majority class, text length only, TF-IDF, the same architecture with random init, and shuffled
labels, which nothing can learn.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from bertgpt.evals.results import EvalResult, ScoreWithInterval
from bertgpt.evals.tasks import LabeledDataset, check_classes
from bertgpt.hub.pretrained import PretrainedModel, weights_of
from bertgpt.inference.embed import Pooling, embed, embed_all_layers
from bertgpt.training.init import init_model
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import atomic_write, cache_folder, ensure_writable_folder, evict_oldest

Floats = NDArray[np.float32]
SplitTexts = tuple[list[str], list[str]]  # of the training and test split
Labels = tuple[NDArray[Any], NDArray[Any]]  # class ids of the training and test split
Scores = dict[str, ScoreWithInterval]
C_GRID = tuple(10.0 ** (power / 2) for power in range(-8, 5))  # inverse regularization strengths, 1e-4 to 100
COARSE_C_GRID = C_GRID[::3]
FOLDS, SEED, MAX_ITER = 5, 42, 2000
LEGACY_TRAIN, LEGACY_TEST = 10_000, 2_500
CACHE_BYTES = 2 << 30


def check_probe_data(data: LabeledDataset) -> None:
    """Require two classes among the training labels, and no others among the test labels; after `limit`, too."""
    check_classes(sorted({str(label) for label in data.train.labels}), [str(label) for label in data.test.labels])


def probe(pretrained: PretrainedModel, data: LabeledDataset, suite: str, full: bool) -> EvalResult:
    """Accuracy of a linear probe on mean-pooled features, with baselines.

    `full` tries more values of C, with cross-validation, and adds a learning curve and a probe of each layer.
    """
    check_probe_data(data)
    texts = data.train.texts, data.test.texts
    labels = data.train.label_ids(data.classes), data.test.label_ids(data.classes)
    train, test = (cached_features(pretrained, split, "mean") for split in texts)
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        raise BertGPTError("BG321", "features are NaN or infinite")
    result = fit_and_predict(train, test, labels[0], full)
    correct = (result.predictions == labels[1]).tolist()
    scores = {
        "accuracy": ScoreWithInterval.from_correct(correct),
        "train_accuracy": ScoreWithInterval(float((result.train_predictions == labels[0]).mean())),
    }
    majority = np.bincount(labels[0]).argmax()
    shuffled = np.random.Generator(np.random.Philox(SEED)).permutation(labels[0])
    baselines = {
        "majority class": ScoreWithInterval(float((labels[1] == majority).mean())),
        "text length": accuracy_of_features(length_features(texts[0]), length_features(texts[1]), labels, full),
        "TF-IDF baseline": accuracy_of_features(*tf_idf_features(*texts), labels, full, scaled=False),
        "random init": random_init_accuracy(pretrained, texts, labels, full),
        "shuffled labels": accuracy_of_features(train, test, (shuffled, labels[1]), full),
    }
    if pretrained.objective == "mlm":
        scores |= legacy_cls_probe(pretrained, texts, labels)
    if full:
        scores |= learning_curve(train, test, labels) | layerwise_probe(pretrained, texts, labels)
    predictions = [data.classes[i] for i in result.predictions]
    items = {"label": data.test.labels, "prediction": predictions, "correct": correct}
    definition, notes = f"{suite}.probe.mean.standardised.logistic/1", notes_of(result, texts, scores, baselines)
    return EvalResult(suite, definition, len(correct), scores, baselines, items, notes=notes)


def notes_of(result: "ProbeResult", texts: SplitTexts, scores: Scores, baselines: Scores) -> list[str]:
    """What to know when reading the scores of a probe."""
    notes = []
    accuracy, tf_idf = scores["accuracy"].value, baselines["TF-IDF baseline"].value
    if accuracy < tf_idf:
        notes.append(f"the TF-IDF baseline is better: {tf_idf:.3f}, this model {accuracy:.3f}")
    edge = ", at the edge of the grid" if result.at_edge else ""
    notes.append(f"C = {result.c:g}, chosen on the training split{edge}")
    notes.append(f"{len(set(texts[0]) & set(texts[1])):,} test texts are in the training split too")
    if empty := sum(not text.strip() for text in chain(*texts)):
        notes.append(f"{empty:,} texts are empty")
    return notes


# -------------------------------------------------------------------------------------------------- features


def cached_features(pretrained: PretrainedModel, texts: Sequence[str], pooling: Pooling) -> Floats:
    """Features of texts, (texts, D), cached by parameters, tokenizer, texts and pooling."""
    tokenizer, objective, length = pretrained.tokenizer.fingerprint, pretrained.objective, pretrained.max_length
    digest = sha256(json.dumps([tokenizer, objective, length, pooling]).encode())
    for name, weight in sorted(weights_of(pretrained.model).items()):
        digest.update(name.encode())
        digest.update(weight.float().numpy().tobytes())
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + text.encode())
    folder = cache_folder() / "features"
    file = folder / f"{digest.hexdigest()}.safetensors"
    if file.exists():
        return load_file(file)["features"]
    features = embed(pretrained, texts, pooling)
    ensure_writable_folder(folder)
    evict_oldest(folder, CACHE_BYTES)
    with atomic_write(file, durable=False) as temporary:
        save_file({"features": features}, temporary)
    return features


def length_features(texts: Sequence[str]) -> Floats:
    """Characters and words of each text, (texts, 2)."""
    return np.array([[len(text), len(text.split())] for text in texts], np.float32)


def tf_idf_features(train: Sequence[str], test: Sequence[str]) -> tuple[Any, Any]:
    """Sparse TF-IDF of words and word bigrams, fitted on the training split."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2 if len(train) > 1000 else 1, sublinear_tf=True)
    try:
        return vectorizer.fit_transform(train), vectorizer.transform(test)
    except ValueError as error:
        raise BertGPTError("BG310", "no words in these texts", cause=str(error)) from None


# ----------------------------------------------------------------------------------------------- classifiers


@dataclass(frozen=True)
class ProbeResult:
    """Predictions of a fitted logistic regression, and its C."""

    predictions: NDArray[Any]
    train_predictions: NDArray[Any]
    c: float
    at_edge: bool  # C is the smallest or the largest one of the grid


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit BLAS to one thread: with several, small matrix products wait for each other longer than they compute (three
    times as long in all on two cores), and results would round differently with the number of threads."""
    import sklearn.linear_model  # noqa: F401  only libraries that are loaded already are limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        yield


@single_threaded_blas()
def fit_and_predict(train: Any, test: Any, labels: NDArray[Any], full: bool, scaled: bool = True) -> ProbeResult:
    """Logistic regression whose C is chosen by validation on the training split alone."""
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

    grid = C_GRID if full else COARSE_C_GRID
    counts = np.unique(labels, return_counts=True)[1]
    smallest, classes = int(counts.min()), len(counts)
    val_size = classes if 0.1 * len(labels) <= classes - 1 else 0.1  # at least one example of each class
    splitter = StratifiedShuffleSplit(1, test_size=val_size, random_state=SEED)
    if full and smallest >= FOLDS:
        splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    best = 1.0
    if smallest >= 2 and len(labels) >= 20:
        folds = list(splitter.split(train, labels))
        progress = console.Progress("choosing C", len(grid), in_bytes=False)
        accuracies = []
        for number, c in enumerate(grid):
            fitted = [(fit(train[fold], labels[fold], c, scaled), rest) for fold, rest in folds]
            accuracies.append(np.mean([(probe.predict(train[rest]) == labels[rest]).mean() for probe, rest in fitted]))
            progress.update(number + 1)
        progress.end()
        best = grid[int(np.argmax(accuracies))]
    classifier = fit(train, labels, best, scaled)
    return ProbeResult(classifier.predict(test), classifier.predict(train), best, best in (grid[0], grid[-1]))


def fit(train: Any, labels: NDArray[Any], c: float, scaled: bool) -> Any:
    """Fit a logistic regression until it converges."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    for max_iter in (MAX_ITER, 10 * MAX_ITER):
        steps = [StandardScaler()] if scaled else []
        classifier = make_pipeline(*steps, LogisticRegression(C=c, max_iter=max_iter, random_state=SEED))
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                return classifier.fit(train, labels)
            except ConvergenceWarning:
                continue
    cause = f"C = {c:g}, {10 * MAX_ITER:,} iterations"
    raise BertGPTError("BG323", "logistic regression does not converge", cause=cause)


# ------------------------------------------------------------------------------------- baselines and variants


def accuracy(predictions: NDArray[Any], labels: NDArray[Any]) -> ScoreWithInterval:
    """Accuracy with a Wilson interval."""
    return ScoreWithInterval.from_correct((predictions == labels).tolist())


def accuracy_of_features(train: Any, test: Any, labels: Labels, full: bool, scaled: bool = True) -> ScoreWithInterval:
    """Test accuracy of a logistic regression on these features."""
    return accuracy(fit_and_predict(train, test, labels[0], full, scaled).predictions, labels[1])


def random_init_accuracy(
    pretrained: PretrainedModel, texts: SplitTexts, labels: Labels, full: bool
) -> ScoreWithInterval:
    """Accuracy of the same architecture, not trained."""
    random = replace(pretrained, model=init_model(pretrained.model.config, SEED).eval(), head=None)
    return accuracy_of_features(embed(random, texts[0]), embed(random, texts[1]), labels, full)


def legacy_cls_probe(pretrained: PretrainedModel, texts: SplitTexts, labels: Labels) -> Scores:
    """The probe of earlier work: [CLS] or pooler output, not scaled, C = 1, 1,000 iterations, seed 42, the first 10,000
    training and 2,500 test texts. The pooler is used only where next-sentence prediction trained it."""
    from sklearn.linear_model import LogisticRegression

    pooling: Pooling = "pooled" if pretrained.model.config.token_types else "first"
    train = cached_features(pretrained, texts[0][:LEGACY_TRAIN], pooling)
    test = cached_features(pretrained, texts[1][:LEGACY_TEST], pooling)
    train_labels, test_labels = labels[0][:LEGACY_TRAIN], labels[1][:LEGACY_TEST]
    if len(set(train_labels)) < 2:
        return {}
    with warnings.catch_warnings(), single_threaded_blas():
        warnings.simplefilter("ignore")
        classifier = LogisticRegression(max_iter=1000, random_state=SEED).fit(train, train_labels)
    name = f"legacy probe ({pooling}, unscaled)"
    return {
        name: accuracy(classifier.predict(test), test_labels),
        f"{name}, train": ScoreWithInterval(float((classifier.predict(train) == train_labels).mean())),
    }


def layerwise_probe(pretrained: PretrainedModel, texts: SplitTexts, labels: Labels) -> Scores:
    """Probe accuracy of each layer; layer 0 is the embeddings, which see no context."""
    layers = zip(embed_all_layers(pretrained, texts[0]), embed_all_layers(pretrained, texts[1]), strict=True)
    return {
        f"layer {layer}": accuracy_of_features(train, test, labels, False) for layer, (train, test) in enumerate(layers)
    }


def learning_curve(train: Floats, test: Floats, labels: Labels) -> Scores:
    """Probe accuracy for smaller training splits."""
    sizes = [size for size in (100, 1000, 10_000, 100_000) if size < len(train)]
    order = np.random.Generator(np.random.Philox(SEED)).permutation(len(train))
    subsets = {size: order[:size] for size in sizes if len(set(labels[0][order[:size]])) > 1}
    return {
        f"accuracy, {size:,} training texts": accuracy_of_features(
            train[subset], test, (labels[0][subset], labels[1]), False
        )
        for size, subset in subsets.items()
    }
