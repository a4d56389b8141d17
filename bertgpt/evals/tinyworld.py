"""How close a model comes to tinyworld, the corpus whose every probability is known: in surprise, and in guesses.

Scores are sums over words and marks, in all and by the mechanism behind each. A token belongs, with all its nats, to
the word that holds its first character that is no space: `,"` as one token is the comma's. The ends stay with whoever
reveals them: that "rope" is not "ropes" is paid by the token behind it. Sums over whole documents know neither.

Documents are asked about whole and one by one. One that does not fit into the model's context, or that its tokenizer
writes with an unknown id, is in no sum: it is counted as `skipped`, and the truth is summed over the same documents.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.scoring import masked_logits, token_nlls
from bertgpt.tinyworld.grammar import CATEGORIES, TOKEN
from bertgpt.tinyworld.oracle import Oracle
from bertgpt.tinyworld.world import Document, World
from bertgpt.utils.errors import BertGPTError

FRAME = 2  # the ids around a text: an end before and behind it, or [CLS] and [SEP]


class AlignedDocument(NamedTuple):
    """A document as a model reads it."""

    text: str
    ids: list[int]
    owners: list[int]  # the word of each id, counted as `tokens_of` does


class WordNLL(NamedTuple):
    """What a word or mark costs, in nats."""

    mechanism: str
    true: float
    model: float


class MaskedWordPrediction(NamedTuple):
    """What is said of a hidden word."""

    mechanism: str
    right: bool
    oracle_right: bool
    same: bool  # both say the same, be it right or wrong


def excess_nll(kept: PretrainedModel, world: World, documents: Sequence[Document]) -> dict[str, Any]:
    """By how much a model that goes on with text is more surprised by documents than it must be.

    A document is scored from one end id on, and the end id behind it too. `excess` is the model's nats over the true
    ones, minus 1; `share_of_gap` the part of what the model lacks that stands on words of a mechanism. In all, nobody
    comes below 0 but by chance; a mechanism can, as odds that are too high for it are too low for another. A tokenizer
    that lower-cases is an exception: capitals, which the truth pays for, cost its models nothing.
    """
    if kept.objective == "mlm":
        raise BertGPTError("BG221", "a BERT does not go on with text", hint="recovery is the score of masked models")
    spelled, skipped = fits_context(kept, documents)
    end, found = kept.tokenizer.eos_id, list[WordNLL]()
    nats = token_nlls(kept.model, [[end, *each.ids, end] for each in spelled])
    for each, costs in zip(spelled, nats, strict=True):
        words = world.read(each.text).words
        paid = [0.0] * len(words)
        for owner, cost in zip([*each.owners, len(words) - 1], costs, strict=True):
            paid[owner] += cost
        found += [WordNLL(w.mechanism, 0.0 - w.logp, cost) for w, cost in zip(words, paid, strict=True)]
    total, by_mechanism = summed(found, surprise_of)
    for sums in by_mechanism.values():
        sums["share_of_gap"] = ratio(sums["nats"] - sums["true_nats"], total["nats"] - total["true_nats"])
    return {"documents": len(spelled), "skipped": skipped} | total | {"by_mechanism": by_mechanism}


def masked_word_accuracy(kept: PretrainedModel, world: World, documents: Sequence[Document]) -> dict[str, Any]:
    """How often a model that fills gaps finds a hidden word, and how often the best guess that anyone can make is it.

    One word at a time is hidden, every alphabetic one, in a row framed as those it was trained on. All its ids are
    masked, and all must be the likeliest to be right. So the model sees how many there are, which the oracle does not:
    where that helps, its `share` of the oracle's accuracy may come above 1.
    """
    if kept.objective == "clm":
        raise BertGPTError("BG221", "a GPT does not fill gaps", hint="excess is the score of causal models")
    spelled, skipped = fits_context(kept, documents)
    found = [guess for each in spelled for guess in predict_words(kept, world, each)]
    total, by_mechanism = summed(found, guesses_of)
    return {"documents": len(spelled), "skipped": skipped} | total | {"by_mechanism": by_mechanism}


# ---------------------------------------------------------------------------------------------- words and ids


def align(tokenizer: Tokenizer, text: str) -> AlignedDocument:
    """A text in ids, each with the word that it belongs to; spaces behind the last word are the ending's."""
    encoding = tokenizer.reference.encode(text, add_special_tokens=False)
    ends = [match.end() for match in TOKEN.finditer(text)]  # of words
    return AlignedDocument(text, list(encoding.ids), [bisect_right(ends, start) for start, _ in encoding.offsets])


def fits_context(kept: PretrainedModel, documents: Sequence[Document]) -> tuple[list[AlignedDocument], int]:
    """The documents that the model can be asked about, and how many others there are."""
    unknown, longest = kept.tokenizer.roles.get("unk"), kept.max_length - FRAME
    spelled = [align(kept.tokenizer, document.text) for document in documents]
    fitting = [each for each in spelled if len(each.ids) <= longest and unknown not in each.ids]
    if not fitting:
        cause = f"{len(documents)} documents, rows of at most {kept.max_length} ids"
        raise BertGPTError("BG204", "there is no document that the model can read whole", cause=cause)
    return fitting, len(spelled) - len(fitting)


def predict_words(kept: PretrainedModel, world: World, spelled: AlignedDocument) -> list[MaskedWordPrediction]:
    """What the model and the oracle say of each alphabetic word of a document."""

    def ids_of(word: int, in_text: AlignedDocument) -> list[int]:
        return [i for i, owner in zip(in_text.ids, in_text.owners, strict=True) if owner == word]

    words, text = world.read(spelled.text).words, spelled.text
    spans = [match.span() for match in TOKEN.finditer(text)]
    # a word without an id of its own, which no tokenizer with words makes, cannot be hidden
    asked = [i for i, word in enumerate(words) if word.text[0].isalpha() and i in spelled.owners]
    gaps = [[place for place, owner in enumerate(spelled.owners) if owner == i] for i in asked]
    oracle, found = Oracle(world, text), []
    for i, logits in zip(asked, masked_logits(kept, spelled.ids, gaps), strict=True):
        said = logits.argmax(dim=1).tolist()
        odds = oracle.posterior(i)
        best = max(odds, key=odds.__getitem__)
        with_best = text[: spans[i][0]] + best + text[spans[i][1] :]
        same = said == ids_of(i, align(kept.tokenizer, with_best))
        found.append(MaskedWordPrediction(words[i].mechanism, said == ids_of(i, spelled), best == words[i].text, same))
    return found


# ---------------------------------------------------------------------------------------------------- sums


def summed(found: list[Any], sums: Callable[[list[Any]], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sums of all that was found, and of each mechanism."""
    return sums(found), {m: sums([each for each in found if each.mechanism == m]) for m in CATEGORIES}


def surprise_of(found: list[WordNLL]) -> dict[str, Any]:
    """What some words cost."""
    true, nats = sum(each.true for each in found), sum(each.model for each in found)
    return {"words": len(found), "true_nats": true, "nats": nats, "excess": ratio(nats - true, true)}


def guesses_of(found: list[MaskedWordPrediction]) -> dict[str, Any]:
    """How many of some words are found."""
    words = len(found)
    right, oracle_right = sum(each.right for each in found), sum(each.oracle_right for each in found)
    return {
        "words": words,
        "accuracy": ratio(right, words),
        "oracle_accuracy": ratio(oracle_right, words),
        "share": ratio(right, oracle_right),
        "agreement_with_oracle": ratio(sum(each.same for each in found), words),
    }


def ratio(part: float, whole: float) -> float | None:
    """A part of a whole; none where there is nothing to be a part of."""
    return part / whole if whole else None
