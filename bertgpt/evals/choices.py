"""Suites that compare log-likelihoods of alternatives.

    hellaswag   a context and four endings, of which one follows (Zellers et al., 2019)
    lambada     a text and its last word, which depends on broad context (Paperno et al., 2016)
    blimp       minimal pairs: two sentences, of which one is grammatical (Warstadt et al., 2020)
    cloze       a file with `context`, `endings` and `label`

A tie scores a fraction, and NaN is an error.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from bertgpt.evals.intervals import bootstrap_mean, macro_mean
from bertgpt.evals.requests import LoglikelihoodResult, loglikelihood, loglikelihood_rolling
from bertgpt.evals.results import EvalResult, ScoreWithInterval
from bertgpt.evals.tables import Row
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.utils.errors import BertGPTError


def require_causal(pretrained: PretrainedModel, suite: str) -> None:
    """Refuse masked language models: they have no likelihood of a continuation."""
    if pretrained.objective == "mlm":
        hint = "blimp and mlm are suites for masked language models"
        raise BertGPTError("BG222", f"{suite} needs a causal model", hint=hint)


def tie_credit(values: Sequence[float], correct: int) -> float:
    """1 if the correct alternative has the highest value, 1/k if k alternatives tie for it, else 0."""
    top = max(values)
    return 0.0 if values[correct] < top else 1.0 / sum(value == top for value in values)


# ------------------------------------------------------------------------------------------- multiple choice


NORMALIZATIONS: dict[str, Callable[[LoglikelihoodResult, str], float]] = {
    "acc": lambda result, ending: result.logprob,
    "acc_norm": lambda result, ending: result.logprob / max(1, len(ending)),
    "acc_bytes": lambda result, ending: result.logprob / max(1, len(ending.encode())),
    "acc_token": lambda result, ending: result.logprob / max(1, result.tokens),
}


def multiple_choice(pretrained: PretrainedModel, rows: Sequence[Row], suite: str) -> EvalResult:
    """Multiple choice by log-likelihood of the ending: `acc` unnormalized, `acc_norm` per character of the ending,
    `acc_bytes` per UTF-8 byte, `acc_token` per token."""
    require_causal(pretrained, suite)
    requests = [(row["context"], f" {ending}") for row in rows for ending in row["endings"]]
    results = iter(loglikelihood(pretrained, requests))
    items: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        endings, label = row["endings"], row["label"]
        row_results = [next(results) for _ in endings]
        for name, normalize in NORMALIZATIONS.items():
            values = [normalize(result, ending) for result, ending in zip(row_results, endings, strict=True)]
            items[name].append(tie_credit(values, label))
        items["label"].append(label)
        items["logprobs"].append([result.logprob for result in row_results])
    lengths = [([len(ending) for ending in row["endings"]], row["label"]) for row in rows]
    shortest = [tie_credit([-size for size in sizes], label) for sizes, label in lengths]
    longest = [tie_credit(sizes, label) for sizes, label in lengths]
    baselines = {
        "chance": ScoreWithInterval(sum(1 / len(row["endings"]) for row in rows) / len(rows)),
        "shortest ending": ScoreWithInterval.from_correct(shortest),
        "longest ending": ScoreWithInterval.from_correct(longest),
    }
    scores = {name: ScoreWithInterval.from_correct(items[name]) for name in NORMALIZATIONS}
    version = 2 if suite == "hellaswag" else 1
    return EvalResult(suite, f"{suite}.loglikelihood/{version}", len(rows), scores, baselines, dict(items))


def validate_cloze_rows(rows: Sequence[Row], where: str) -> list[Row]:
    """Check the rows of a cloze file."""
    for number, row in enumerate(rows):
        if not {"context", "endings", "label"} <= row.keys():
            cause = f"row {number} has {', '.join(row)}"
            raise BertGPTError("BG212", "a cloze file needs context, endings and label", path=where, cause=cause)
        endings, label = row["endings"], row["label"]
        are_texts = isinstance(endings, list) and all(isinstance(ending, str) and ending for ending in endings)
        if not are_texts or len(endings) < 2 or not isinstance(row["context"], str):
            raise BertGPTError("BG303", f"row {number}: context must be text, endings at least two texts", path=where)
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(endings):
            cause = f"row {number}: {label!r} of {len(endings)} endings"
            raise BertGPTError("BG322", "label must be the index of an ending, from 0", path=where, cause=cause)
    return list(rows)


# ------------------------------------------------------------------------------------ last-word prediction


def lambada(pretrained: PretrainedModel, rows: Sequence[Row]) -> EvalResult:
    """Last-word prediction: `acc`, whether greedy decoding gives the word, and `ppl`, perplexity per word."""
    require_causal(pretrained, "lambada")
    results = loglikelihood(pretrained, [(row["context"], f" {row['continuation']}") for row in rows])
    nlls = [-result.logprob for result in results]
    nll = ScoreWithInterval(sum(nlls) / len(nlls), *bootstrap_mean(nlls))
    correct = [float(result.greedy) for result in results]
    scores = {
        "acc": ScoreWithInterval.from_correct(correct),
        "ppl": nll.map(safe_exp),
    }
    occurs = [float(row["continuation"] in row["context"]) for row in rows]
    previous = [float(row["context"].split()[-1:] == [row["continuation"]]) for row in rows]
    baselines = {
        "previous word": ScoreWithInterval.from_correct(previous),
        "word occurs in context": ScoreWithInterval.from_correct(occurs),
    }
    items = {"acc": correct, "nll": nlls, "tokens": [result.tokens for result in results]}
    return EvalResult("lambada", "lambada.openai.greedy/1", len(rows), scores, baselines, items)


def safe_exp(nll: float) -> float:
    """Perplexity of an NLL, without overflow."""
    return math.exp(min(nll, 700.0))


# ------------------------------------------------------------------------------------------- minimal pairs


def blimp(pretrained: PretrainedModel, rows: Sequence[Row]) -> EvalResult:
    """Minimal pairs: whether the grammatical sentence is likelier; `accuracy` is the mean over paradigms.

    Masked language models are scored by pseudo-log-likelihood.
    """
    rows, num_dropped = drop_too_long(pretrained, rows)
    texts = [row[name] for row in rows for name in ("sentence_good", "sentence_bad")]
    results = loglikelihood_rolling(pretrained, texts)
    good, bad = ([result.logprob for result in results[first::2]] for first in (0, 1))
    correct = [tie_credit(pair, 0) for pair in zip(good, bad, strict=True)]
    shorter = [tie_credit([-len(row["sentence_good"]), -len(row["sentence_bad"])], 0) for row in rows]
    paradigms, phenomena = group_by(rows, correct, "UID"), group_by(rows, correct, "linguistics_term")
    scores = {"accuracy": macro_average(paradigms)}
    scores |= {name: ScoreWithInterval.from_correct(values) for name, values in sorted(phenomena.items())}
    baselines = {
        "chance": ScoreWithInterval(0.5),
        "shorter sentence": macro_average(group_by(rows, shorter, "UID")),
    }
    items = {"UID": [row["UID"] for row in rows], "correct": correct, "logprob_good": good, "logprob_bad": bad}
    notes = [f"mean over {len(paradigms)} paradigms"]
    notes += [f"{num_dropped:,} pairs exceed the context and are left out"] if num_dropped else []
    method = "pll_word_l2r" if pretrained.objective == "mlm" else "loglikelihood"
    return EvalResult("blimp", f"blimp.{method}/1", len(rows), scores, baselines, items, notes=notes)


def drop_too_long(pretrained: PretrainedModel, rows: Sequence[Row]) -> tuple[list[Row], int]:
    """The pairs that fit the context of a bidirectional model, and the number of others."""
    if pretrained.objective != "mlm":
        return list(rows), 0
    longest, encode = pretrained.max_length - 2, pretrained.tokenizer.encode
    names = ("sentence_good", "sentence_bad")
    fitting = [row for row in rows if all(len(encode(row[name])) <= longest for name in names)]
    if not fitting:
        raise BertGPTError("BG204", "no sentence fits the model's context", cause=f"at most {longest} tokens fit")
    return fitting, len(rows) - len(fitting)


def group_by(rows: Sequence[Row], values: Sequence[float], column: str) -> dict[str, list[float]]:
    """Values grouped by a column of their rows."""
    groups: dict[str, list[float]] = defaultdict(list)
    for row, value in zip(rows, values, strict=True):
        groups[row[column]].append(value)
    return groups


def macro_average(groups: dict[str, list[float]]) -> ScoreWithInterval:
    """Mean of the accuracies of groups."""
    accuracies = [sum(values) / len(values) for values in groups.values()]
    return ScoreWithInterval(sum(accuracies) / len(accuracies), *macro_mean(list(groups.values())))
