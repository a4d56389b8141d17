"""Scores on tinyworld, whose true probabilities are known: excess NLL of causal models, accuracy of masked ones beside
the Bayes optimum.

Scores are sums over words and punctuation marks, in all and by category of word. A token's NLL belongs to the word that
holds its first character that is not a space: `,"` as one token belongs to the comma. That "rope" is not "ropes" is
paid for by the next token, so sums by category depend a little on the tokenizer; sums over whole documents do not.

Each document is a row of its own. One that exceeds the model's context, or that its tokenizer encodes with an unknown
token, is `skipped`: it is in no sum, and not in the true entropy either.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.scoring import masked_logits, token_nlls
from bertgpt.tinyworld.grammar import CATEGORIES, TOKEN
from bertgpt.tinyworld.oracle import Oracle
from bertgpt.tinyworld.world import Document, World
from bertgpt.utils.errors import BertGPTError

SPECIAL_TOKENS = 2  # around a document: end tokens, or [CLS] and [SEP]


class AlignedDocument(NamedTuple):
    """A document as token ids, each with the index of its word."""

    text: str
    ids: list[int]
    words: list[int]  # index of the word of each id, in the order of `tokens_of`


class WordNLL(NamedTuple):
    """NLL of a word or punctuation mark in nats: the true one, and the model's."""

    category: str
    true: float
    model: float


class MaskedWordPrediction(NamedTuple):
    """Predictions for a masked word: the model's, and the most likely word given all others (Bayes optimum)."""

    category: str
    correct: bool
    bayes_correct: bool
    agrees: bool  # whether both predict the same word


WordScore = TypeVar("WordScore", WordNLL, MaskedWordPrediction)
Summary = Callable[[list[WordScore]], dict[str, Any]]


def excess_nll(pretrained: PretrainedModel, world: World, documents: Sequence[Document]) -> dict[str, Any]:
    """NLL of a causal model on documents, beside their true NLL.

    Returns `documents`, `skipped`, `words`, `true_nll`, `nll`, `excess` = nll / true_nll - 1, and `by_category` the
    same of each category, with `share_of_gap`: its part of nll - true_nll. The end token before a document is context,
    the one after it is scored. In expectation `excess` is not negative; that of a category can be, as probability that
    one category gains another loses. A lower-casing tokenizer is an exception: it does not pay for capitals.
    """
    if pretrained.objective == "mlm":
        hint = "masked-word accuracy is the score of masked language models"
        raise BertGPTError("BG221", "excess NLL needs a causal model", hint=hint)
    aligned, skipped = fits_context(pretrained, documents)
    end = pretrained.tokenizer.eos_id
    rows = [[end, *document.ids, end] for document in aligned]
    scores: list[WordNLL] = []
    for document, nlls in zip(aligned, token_nlls(pretrained.model, rows), strict=True):
        words = world.parse(document.text).words
        by_word = [0.0] * len(words)
        for word, nll in zip([*document.words, len(words) - 1], nlls, strict=True):
            by_word[word] += nll
        scores += [WordNLL(word.category, 0.0 - word.logp, nll) for word, nll in zip(words, by_word, strict=True)]
    total, by_category = summarize(scores, sum_nlls)
    for sums in by_category.values():
        sums["share_of_gap"] = ratio(sums["nll"] - sums["true_nll"], total["nll"] - total["true_nll"])
    return {"documents": len(aligned), "skipped": skipped} | total | {"by_category": by_category}


def masked_word_accuracy(pretrained: PretrainedModel, world: World, documents: Sequence[Document]) -> dict[str, Any]:
    """Accuracy of a masked language model for masked words, beside the Bayes optimum.

    Every alphabetic word is masked in turn, in a row with special tokens as in training. All its tokens are masked, and
    all must be predicted. So the model sees their number, which the Bayes optimum does not: where that helps, `share`,
    the model's accuracy over that of the Bayes optimum, can exceed 1. Returns `documents`, `skipped`, `words`,
    `accuracy`, `bayes_accuracy`, `share`, `bayes_agreement`, and `by_category` the same of each category.
    """
    if pretrained.objective == "clm":
        hint = "excess NLL is the score of causal models"
        raise BertGPTError("BG221", "masked-word accuracy needs a masked language model", hint=hint)
    aligned, skipped = fits_context(pretrained, documents)
    words = [prediction for document in aligned for prediction in predict_words(pretrained, world, document)]
    total, by_category = summarize(words, sum_predictions)
    return {"documents": len(aligned), "skipped": skipped} | total | {"by_category": by_category}


# ---------------------------------------------------------------------------------------------- words and ids


def align(tokenizer: Tokenizer, text: str) -> AlignedDocument:
    """Encode a document and assign each token to a word; spaces after the last word belong to the end of the text."""
    encoding = tokenizer.reference.encode(text, add_special_tokens=False)
    word_ends = [match.end() for match in TOKEN.finditer(text)]
    return AlignedDocument(text, list(encoding.ids), [bisect_right(word_ends, start) for start, _ in encoding.offsets])


def fits_context(pretrained: PretrainedModel, documents: Sequence[Document]) -> tuple[list[AlignedDocument], int]:
    """The documents that fit the context and have no unknown token, and the number of others."""
    unknown, longest = pretrained.tokenizer.roles.get("unk"), pretrained.max_length - SPECIAL_TOKENS
    aligned = [align(pretrained.tokenizer, document.text) for document in documents]
    fitting = [document for document in aligned if len(document.ids) <= longest and unknown not in document.ids]
    if not fitting:
        cause = f"{len(documents)} documents, at most {longest} tokens fit"
        raise BertGPTError("BG204", "no document fits the model's context", cause=cause)
    return fitting, len(aligned) - len(fitting)


def predict_words(pretrained: PretrainedModel, world: World, document: AlignedDocument) -> list[MaskedWordPrediction]:
    """Predict each alphabetic word of a document from all others, with the model and with the true probabilities."""
    text, words = document.text, world.parse(document.text).words
    spans = [match.span() for match in TOKEN.finditer(text)]
    # A word without a token of its own, which only a tokenizer that ignores words gives it, cannot be masked.
    targets = [i for i, word in enumerate(words) if word.text[0].isalpha() and i in document.words]
    masks = [[position for position, word in enumerate(document.words) if word == target] for target in targets]
    oracle, predictions = Oracle(world, text), []
    for target, logits in zip(targets, masked_logits(pretrained, document.ids, masks), strict=True):
        predicted = logits.argmax(dim=1).tolist()
        posterior = oracle.posterior(target)
        best = max(posterior, key=posterior.__getitem__)
        start, stop = spans[target]
        with_best = align(pretrained.tokenizer, text[:start] + best + text[stop:])
        correct, agrees = (predicted == ids_of_word(aligned, target) for aligned in (document, with_best))
        bayes_correct = best == words[target].text
        predictions.append(MaskedWordPrediction(words[target].category, correct, bayes_correct, agrees))
    return predictions


def ids_of_word(document: AlignedDocument, word: int) -> list[int]:
    """The token ids of a word."""
    return [i for i, owner in zip(document.ids, document.words, strict=True) if owner == word]


# ---------------------------------------------------------------------------------------------------- sums


def summarize(scores: list[WordScore], summary: Summary[WordScore]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A summary of all words, and of those of each category."""
    by_category = {name: summary([score for score in scores if score.category == name]) for name in CATEGORIES}
    return summary(scores), by_category


def sum_nlls(words: list[WordNLL]) -> dict[str, Any]:
    """Total NLL of words, true and the model's, and the excess."""
    true, nll = sum(word.true for word in words), sum(word.model for word in words)
    return {"words": len(words), "true_nll": true, "nll": nll, "excess": ratio(nll - true, true)}


def sum_predictions(words: list[MaskedWordPrediction]) -> dict[str, Any]:
    """Accuracy of the model and of the Bayes optimum, and how often they agree."""
    count = len(words)
    correct, bayes_correct = sum(word.correct for word in words), sum(word.bayes_correct for word in words)
    return {
        "words": count,
        "accuracy": ratio(correct, count),
        "bayes_accuracy": ratio(bayes_correct, count),
        "share": ratio(correct, bayes_correct),
        "bayes_agreement": ratio(sum(word.agrees for word in words), count),
    }


def ratio(part: float, whole: float) -> float | None:
    """part / whole; None if whole is 0."""
    return part / whole if whole else None
