"""Suites of choices: which continuation, or which sentence, a model finds likelier.

    hellaswag   a situation and four endings, of which one follows (Zellers et al., 2019)
    lambada     a text and its last word, which only the whole of it tells (Paperno et al., 2016)
    blimp       two sentences, of which one is grammatical (Warstadt et al., 2020)
    cloze       a file of one's own, with `context`, `endings` and `label`

A tie counts a half, and an answer that is not a number is an error.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from bertgpt.evals.intervals import bootstrap_mean
from bertgpt.evals.requests import LoglikelihoodResult, loglikelihood, loglikelihood_rolling
from bertgpt.evals.results import EvalResult, ScoreWithInterval
from bertgpt.evals.tables import Row
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.utils.errors import BertGPTError


def require_causal(kept: PretrainedModel, suite: str) -> None:
    """Endings are for models that look back."""
    if kept.objective == "mlm":
        hint = "eval blimp and eval mlm are for masked models"
        raise BertGPTError("BG222", f"{suite} asks what comes next, and a masked model does not say that", hint=hint)


def tie_credit(values: Sequence[float], right: int) -> float:
    """1 if the right one is the highest, a share if it ties with others, else 0."""
    top = max(values)
    return 0.0 if values[right] < top else 1.0 / sum(value == top for value in values)


# --------------------------------------------------------------------------------------------------- endings


def multiple_choice(kept: PretrainedModel, rows: Sequence[Row], suite: str) -> EvalResult:
    """The likeliest of some endings: by its whole likelihood, and for each of its characters, bytes and tokens."""
    require_causal(kept, suite)
    requests = [(row["context"], f" {ending}") for row in rows for ending in row["endings"]]
    said = iter(loglikelihood(kept, requests))
    per: dict[str, Callable[[LoglikelihoodResult, str], float]] = {
        "acc": lambda answer, ending: answer.logprob,
        "acc_norm": lambda answer, ending: answer.logprob / max(1, len(ending)),
        "acc_bytes": lambda answer, ending: answer.logprob / max(1, len(ending.encode())),
        "acc_token": lambda answer, ending: answer.logprob / max(1, answer.tokens),
    }
    items: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        mine = [next(said) for _ in row["endings"]]
        for name, way in per.items():
            values = [way(answer, ending) for answer, ending in zip(mine, row["endings"], strict=True)]
            items[name].append(tie_credit(values, row["label"]))
        items["label"].append(row["label"])
        items["logprobs"].append([answer.logprob for answer in mine])
    shortest = [tie_credit([-len(ending) for ending in row["endings"]], row["label"]) for row in rows]
    longest = [tie_credit([len(ending) for ending in row["endings"]], row["label"]) for row in rows]
    chance = sum(1 / len(row["endings"]) for row in rows) / len(rows)
    baselines = {
        "chance": ScoreWithInterval(chance),
        "the shortest": ScoreWithInterval.from_correct(shortest),
        "the longest": ScoreWithInterval.from_correct(longest),
    }
    scores = {name: ScoreWithInterval.from_correct(items[name]) for name in per}
    return EvalResult(suite, f"{suite}.loglikelihood/1", len(rows), scores, baselines, dict(items))


def validate_cloze_rows(rows: Sequence[Row], where: str) -> list[Row]:
    """A file of one's own, if it is as it should be."""
    for number, row in enumerate(rows):
        if not {"context", "endings", "label"} <= row.keys():
            cause = f"row {number} has {', '.join(row)}"
            raise BertGPTError("BG212", "a cloze file has context, endings and label", path=where, cause=cause)
        ends, label = row["endings"], row["label"]
        good = isinstance(ends, list) and len(ends) > 1 and all(isinstance(end, str) and end for end in ends)
        if not good or not isinstance(row["context"], str):
            raise BertGPTError("BG303", f"row {number} has no two endings that are texts", path=where)
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(ends):
            cause = f"row {number}: {label!r} of {len(ends)} endings"
            raise BertGPTError("BG322", "a label is the number of an ending, from 0 on", path=where, cause=cause)
    return list(rows)


# -------------------------------------------------------------------------------------------------- last words


def lambada(kept: PretrainedModel, rows: Sequence[Row]) -> EvalResult:
    """Whether the last word is the likeliest, id by id, and how surprising it is: perplexity is that of a word."""
    require_causal(kept, "lambada")
    said = loglikelihood(kept, [(row["context"], f" {row['continuation']}") for row in rows])
    nats = [-answer.logprob for answer in said]
    low, high = bootstrap_mean(nats)
    mean = sum(nats) / len(nats)
    right = [float(answer.greedy) for answer in said]
    scores = {
        "acc": ScoreWithInterval.from_correct(right),
        "ppl": ScoreWithInterval(safe_exp(mean), safe_exp(low), safe_exp(high)),
    }
    inside = [float(row["continuation"] in row["context"]) for row in rows]
    last = [float(row["context"].split()[-1:] == [row["continuation"]]) for row in rows]
    baselines = {
        "the word before": ScoreWithInterval.from_correct(last),
        "it occurs before": ScoreWithInterval.from_correct(inside),
    }
    items: dict[str, list[Any]] = {"acc": right, "nats": nats, "tokens": [answer.tokens for answer in said]}
    return EvalResult("lambada", "lambada.openai.greedy/1", len(rows), scores, baselines, items)


def safe_exp(nats: float) -> float:
    """A perplexity, which may be too large to be told."""
    return math.exp(min(nats, 700.0))


# ------------------------------------------------------------------------------------------------------- pairs


def blimp(kept: PretrainedModel, rows: Sequence[Row]) -> EvalResult:
    """Which of two sentences is likelier, as a mean over paradigms and over the phenomena these belong to."""
    rows, left_out = drop_too_long(kept, rows)
    texts = [row[name] for row in rows for name in ("sentence_good", "sentence_bad")]
    said = loglikelihood_rolling(kept, texts)
    good, bad = said[::2], said[1::2]
    right = [tie_credit([one.logprob, other.logprob], 0) for one, other in zip(good, bad, strict=True)]
    shorter = [tie_credit([-len(row["sentence_good"]), -len(row["sentence_bad"])], 0) for row in rows]
    paradigms, phenomena = grouped(rows, right, "UID"), grouped(rows, right, "linguistics_term")
    way = "pll_word_l2r" if kept.objective == "mlm" else "loglikelihood"
    scores = {"accuracy": macro_average(paradigms)}
    scores |= {name: ScoreWithInterval.from_correct(each) for name, each in sorted(phenomena.items())}
    baselines = {"chance": ScoreWithInterval(0.5), "the shorter": macro_average(grouped(rows, shorter, "UID"))}
    items = {"UID": [row["UID"] for row in rows], "correct": right}
    items |= {"good": [each.logprob for each in good], "bad": [each.logprob for each in bad]}
    notes = [f"a mean over {len(paradigms)} paradigms"]
    notes += [f"{left_out:,} pairs are longer than the model's rows, and left out"] if left_out else []
    return EvalResult("blimp", f"blimp.{way}/1", len(rows), scores, baselines, items, notes=notes)


def drop_too_long(kept: PretrainedModel, rows: Sequence[Row]) -> tuple[list[Row], int]:
    """The pairs that a model that looks both ways can see whole, and how many others there are."""
    if kept.objective != "mlm":
        return list(rows), 0
    most = kept.max_length - 2
    names = ("sentence_good", "sentence_bad")
    fit = [row for row in rows if all(len(kept.tokenizer.encode(row[name])) <= most for name in names)]
    if not fit:
        raise BertGPTError("BG204", "all sentences are longer than the model's context", cause=f"rows of {most}")
    return fit, len(rows) - len(fit)


def grouped(rows: Sequence[Row], values: Sequence[float], column: str) -> dict[str, list[float]]:
    """Values by what a column says."""
    found: dict[str, list[float]] = defaultdict(list)
    for row, value in zip(rows, values, strict=True):
        found[row[column]].append(value)
    return found


def macro_average(groups: dict[str, list[float]]) -> ScoreWithInterval:
    """The mean of the shares of groups; its spread is that of the items within them."""
    shares = [sum(each) / len(each) for each in groups.values()]
    mean = sum(shares) / len(shares)
    spread = sum(p * (1 - p) / len(each) for p, each in zip(shares, groups.values(), strict=True)) ** 0.5 / len(shares)
    return ScoreWithInterval(mean, max(0.0, mean - 1.96 * spread), min(1.0, mean + 1.96 * spread))
