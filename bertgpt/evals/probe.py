"""What a model knows of texts without being trained for it: a linear classifier on its frozen features.

Beside the score stand those of nobody (the majority), of the texts' lengths, of words (tf-idf), of the same shape with
random weights, and of labels that were shuffled, which nothing can learn.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from bertgpt.evals.results import EvalResult, ScoreWithInterval
from bertgpt.evals.tasks import LabelledSplit, check_classes
from bertgpt.hub.pretrained import PretrainedModel, weights_of
from bertgpt.inference.embed import Pooling, embed, embed_all_layers
from bertgpt.training.init import init_model
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import cache_folder, ensure_writable_folder, evict_oldest, write_atomic

Floats = NDArray[np.float32]
Labels = tuple[NDArray[Any], NDArray[Any]]  # of what is learned from, and of what is judged
C_GRID = tuple(10.0 ** (power / 2) for power in range(-8, 5))  # strengths that are tried, 1e-4 to 100
FEW_CS = C_GRID[::3]
FOLDS, SEED, ITERATIONS = 5, 42, 2000
EXACT_TRAIN, EXACT_TEST = 10_000, 2_500
CACHE_BYTES = 2 << 30


Parts = tuple[LabelledSplit, LabelledSplit]  # to learn from, and to be judged by; not pairs of texts


def check(data: Parts) -> None:
    """Two classes at least, and none in the test that nobody could have learned."""
    learned, judged = ([str(label) for label in part.labels] for part in data)
    check_classes(sorted(set(learned)), judged)


def probe(kept: PretrainedModel, data: Parts, suite: str, full: bool) -> EvalResult:
    """All of it."""
    check(data)
    texts, labels = (data[0].texts, data[1].texts), (np.array(data[0].labels), np.array(data[1].labels))
    train, test = (features(kept, some, "mean") for some in texts)
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        raise BertGPTError("BG321", "the features of some texts are not numbers")
    judged = fit_and_predict(train, test, labels[0], full)
    right = (judged.predictions == labels[1]).tolist()
    scores = {"accuracy": ScoreWithInterval.from_correct([float(each) for each in right])}
    scores["train_accuracy"] = ScoreWithInterval(float((judged.said_of_train == labels[0]).mean()))
    notes = [f"C = {judged.c:g}, chosen on the training part" + (", at the edge of what was tried" * judged.at_edge)]
    baselines = {
        "majority": ScoreWithInterval(float((labels[1] == most_frequent(labels[0])).mean())),
        "length": accuracy_of_features(lengths(texts[0]), lengths(texts[1]), labels, full),
        "tf-idf": tf_idf(texts, labels, full),
    }
    random = PretrainedModel(
        init_model(kept.model.config, SEED).eval(),
        kept.tokenizer,
        kept.objective,
        kept.cross_document_attention,
        kept.length,
    )
    baselines["random weights"] = accuracy_of_features(embed(random, texts[0]), embed(random, texts[1]), labels, full)
    shuffled = np.random.Generator(np.random.Philox(SEED)).permutation(labels[0])
    baselines["shuffled labels"] = accuracy_of_features(train, test, (shuffled, labels[1]), full)
    if kept.objective == "mlm":
        scores |= legacy_cls_probe(kept, texts, labels)
    if full:
        scores |= learning_curve(train, test, labels) | layerwise_probe(kept, texts, labels)
    repeated = len(set(texts[0]) & set(texts[1]))
    notes.append(f"{repeated:,} texts of the test are in the training part too")
    empty = sum(not text.strip() for text in chain(*texts))
    if empty:
        notes.append(f"{empty:,} texts are empty")
    items = {"label": data[1].labels, "said": judged.predictions.tolist(), "correct": right}
    definition = f"{suite}.probe.mean.standardised.logistic/1"
    found = EvalResult(suite, definition, len(right), scores, baselines, items, notes=notes)
    words = scores["accuracy"].value, baselines["tf-idf"].value
    if words[0] < words[1]:
        found.notes.insert(0, f"counting words is better: tf-idf {words[1]:.3f}, this model {words[0]:.3f}")
    return found


# -------------------------------------------------------------------------------------------------- features


def features(kept: PretrainedModel, texts: Sequence[str], pooling: Pooling) -> Floats:
    """Vectors of texts, remembered by what they depend on: weights, tokenizer, texts, pooling."""
    digest = sha256(json.dumps([kept.tokenizer.fingerprint, kept.objective, kept.max_length, pooling]).encode())
    for name, weight in sorted(weights_of(kept.model).items()):
        digest.update(name.encode())
        digest.update(weight.float().numpy().tobytes())
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + text.encode())
    folder = cache_folder() / "features"
    file = folder / f"{digest.hexdigest()}.safetensors"
    if file.exists():
        return load_file(file)["features"]
    found = embed(kept, texts, pooling)
    ensure_writable_folder(folder)
    evict_oldest(folder, CACHE_BYTES)
    write_atomic(file, lambda aside: save_file({"features": found}, aside), durable=False)
    return found


def lengths(texts: Sequence[str]) -> Floats:
    """How long each is, in two ways."""
    return np.array([[len(text), len(text.split())] for text in texts], np.float32)


# ----------------------------------------------------------------------------------------------- classifiers


@dataclass(frozen=True)
class ProbeResult:
    """What a classifier says."""

    predictions: NDArray[Any]
    said_of_train: NDArray[Any]
    c: float
    at_edge: bool


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Small products one after the other: several threads wait for each other longer than they compute, three times as
    long in all on two cores, and round otherwise where there are more."""
    import sklearn.linear_model  # noqa: F401  only what is loaded already is held back
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        yield


@single_threaded_blas()
def fit_and_predict(train: Any, test: Any, labels: NDArray[Any], full: bool, scaled: bool = True) -> ProbeResult:
    """Logistic regression; its strength is chosen on the training part alone."""
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

    tried = C_GRID if full else FEW_CS
    counts = np.unique(labels, return_counts=True)[1]
    fewest, classes = int(counts.min()), len(counts)
    apart = classes if 0.1 * len(labels) <= classes - 1 else 0.1  # of every class one at least
    splitter = StratifiedShuffleSplit(1, test_size=apart, random_state=SEED)
    if full and fewest >= FOLDS:
        splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    best = 1.0
    if fewest >= 2 and len(labels) >= 20:
        folds = list(splitter.split(train, labels))
        progress = console.Progress("choosing C", len(tried), of_bytes=False)
        rights = []
        for number, c in enumerate(tried):
            fitted = [(fit(train[some], labels[some], c, scaled), rest) for some, rest in folds]
            rights.append(np.mean([(model.predict(train[rest]) == labels[rest]).mean() for model, rest in fitted]))
            progress.update(number + 1)
        progress.end()
        best = tried[int(np.argmax(rights))]
    model = fit(train, labels, best, scaled)
    return ProbeResult(model.predict(test), model.predict(train), best, best in (tried[0], tried[-1]))


def fit(train: Any, labels: NDArray[Any], c: float, scaled: bool) -> Any:
    """One classifier that has converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    for iterations in (ITERATIONS, 10 * ITERATIONS):
        steps = [StandardScaler()] if scaled else []
        model = make_pipeline(*steps, LogisticRegression(C=c, max_iter=iterations, random_state=SEED))
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                return model.fit(train, labels)
            except ConvergenceWarning:
                continue
    raise BertGPTError("BG323", "the classifier does not converge", cause=f"C = {c:g}, {10 * ITERATIONS:,} iterations")


def accuracy_of_features(train: Any, test: Any, labels: Labels, full: bool) -> ScoreWithInterval:
    """The accuracy of a classifier on other features."""
    return accuracy(fit_and_predict(train, test, labels[0], full).predictions, labels[1])


def accuracy(said: NDArray[Any], labels: NDArray[Any]) -> ScoreWithInterval:
    """Of what was said."""
    return ScoreWithInterval.from_correct([float(each) for each in said == labels])


def most_frequent(labels: NDArray[Any]) -> Any:
    """The class that most have."""
    names, counts = np.unique(labels, return_counts=True)
    return names[counts.argmax()]


def tf_idf(texts: Sequence[list[str]], labels: Labels, full: bool) -> ScoreWithInterval:
    """What words and pairs of words tell."""
    train, test = tf_idf_features(*texts)
    return accuracy(fit_and_predict(train, test, labels[0], full, scaled=False).predictions, labels[1])


def tf_idf_features(train: Sequence[str], test: Sequence[str]) -> tuple[Any, Any]:
    """Words and pairs of words, counted and weighted: what every representation has to be measured against."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    counted = TfidfVectorizer(ngram_range=(1, 2), min_df=2 if len(train) > 1000 else 1, sublinear_tf=True)
    try:
        return counted.fit_transform(train), counted.transform(test)
    except ValueError as error:
        raise BertGPTError("BG310", "there are no words in these texts", cause=str(error)) from None


def legacy_cls_probe(kept: PretrainedModel, texts: Sequence[list[str]], labels: Labels) -> dict[str, ScoreWithInterval]:
    """As the system that this grew from has it: [CLS] or the pooler, not scaled, C = 1, 1,000 iterations, seed 42, the
    first 10,000 and 2,500 texts. Its pooler counts only if pairs were trained."""
    from sklearn.linear_model import LogisticRegression

    pooling: Pooling = "pooled" if kept.model.config.token_types else "first"
    train, test = (
        features(kept, texts[0][:EXACT_TRAIN], pooling),
        features(kept, texts[1][:EXACT_TEST], pooling),
    )
    labels = labels[0][:EXACT_TRAIN], labels[1][:EXACT_TEST]
    if len(set(labels[0])) < 2:
        return {}
    with warnings.catch_warnings(), single_threaded_blas():
        warnings.simplefilter("ignore")
        model = LogisticRegression(max_iter=1000, random_state=SEED).fit(train, labels[0])
    name = f"exact variant ({pooling}, not scaled)"
    return {
        name: accuracy(model.predict(test), labels[1]),
        f"{name}, train": ScoreWithInterval(float((model.predict(train) == labels[0]).mean())),
    }


def layerwise_probe(kept: PretrainedModel, texts: Sequence[list[str]], labels: Labels) -> dict[str, ScoreWithInterval]:
    """The score of every layer; layer 0 is the embeddings, which know nothing of what stands around them."""
    train, test = embed_all_layers(kept, texts[0]), embed_all_layers(kept, texts[1])
    return {
        f"layer {layer}": accuracy_of_features(train[layer], test[layer], labels, False) for layer in range(len(train))
    }


def learning_curve(train: Floats, test: Floats, labels: Labels) -> dict[str, ScoreWithInterval]:
    """The score of fewer texts to learn from."""
    sizes = [size for size in (100, 1000, 10_000, 100_000) if size < len(train)]
    order = np.random.Generator(np.random.Philox(SEED)).permutation(len(train))
    found: dict[str, ScoreWithInterval] = {}
    for size in sizes:
        some = order[:size]
        if len(set(labels[0][some])) > 1:
            found[f"accuracy of {size:,}"] = accuracy(
                fit_and_predict(train[some], test, labels[0][some], False).predictions, labels[1]
            )
    return found
