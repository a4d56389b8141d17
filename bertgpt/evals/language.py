"""How well a model knows a language: in bits per byte if it looks back, in words found if it looks both ways."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from bertgpt.data.loading.masking import MaskingScheme, MaskingVocab, draw_masks
from bertgpt.data.loading.segments import WordBoundaries, split_into_segments
from bertgpt.evals.intervals import bootstrap_ratio
from bertgpt.evals.results import EvalResult, ScoreWithInterval
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.scoring import masked_logits_batched, token_logprobs
from bertgpt.utils.errors import BertGPTError

PLANS, SEED = 5, 1337


def perplexity(kept: PretrainedModel, texts: Sequence[str], stride: int | None) -> EvalResult:
    """Loss of each token of each text (without the end id), perplexity, and bits per byte of the texts."""
    if kept.objective == "mlm":
        hint = "eval mlm is for masked models"
        raise BertGPTError("BG222", "lm asks what comes next, and a masked model does not say that", hint=hint)
    rows = [kept.tokenizer.encode(text) for text in texts]
    costs = [-math.fsum(each) for each in token_logprobs(kept, rows, stride)]
    sizes, counts = [len(text.encode()) for text in texts], list(map(len, rows))
    total, tokens = math.fsum(costs), sum(counts)
    low, high = bootstrap_ratio(costs, counts)
    scores = {
        "loss": ScoreWithInterval(total / tokens, low, high),
        "ppl": ScoreWithInterval(math.exp(total / tokens), math.exp(low), math.exp(high)),
    }
    notes = [
        f"rows of {kept.max_length}, stride {stride or kept.max_length}; tokenizer {kept.tokenizer.fingerprint[:12]}"
    ]
    lengths = kept.tokenizer.token_bytes
    if lengths is None:
        notes.append("no bits per byte: this tokenizer does not keep the text")
    else:
        for row, size in zip(rows, sizes, strict=True):
            if int(lengths[row].sum()) != size:
                raise BertGPTError("BG309", "the bytes of a text's tokens are not those of the text")
        low, high = bootstrap_ratio(costs, sizes)
        bits = [each / math.log(2) for each in (total / sum(sizes), low, high)]
        scores["bits_per_byte"] = ScoreWithInterval(*bits)
    scores["tokens_per_byte"] = ScoreWithInterval(tokens / sum(sizes))
    items: dict[str, list[Any]] = {"nats": costs, "tokens": counts, "bytes": sizes}
    definition = f"lm.{'disjoint' if stride in (None, kept.max_length) else 'strided'}/1"
    return EvalResult("lm", definition, len(texts), scores, {"uniform": ScoreWithInterval(math.log(kept.model.config.vocab_size))}, items,
                 notes=notes)  # fmt: skip


def masked_accuracy(kept: PretrainedModel, texts: Sequence[str]) -> EvalResult:
    """How many hidden ids are found: where the mask stands, where another id does, where nothing was changed.

    Means over five plans that are the same for everybody. The first of these is what a model can do; what is left as it
    is can nearly be copied. Whole words, all of whose ids are hidden, are asked about in plans of their own.
    """
    if kept.objective == "clm":
        raise BertGPTError("BG222", "mlm asks about hidden words, and a causal model fills no gaps", hint="eval lm")
    pieces = [piece for number, text in enumerate(texts) for piece in segment_text(kept, text, number)]
    usual, words = MaskingScheme("token"), MaskingScheme("whole-word", mask_prob=1.0, random_prob=0.0)
    kinds: dict[str, list[float]] = defaultdict(list)
    items: dict[str, list[Any]] = defaultdict(list)
    by_text = np.zeros((len(texts), 2))
    for scheme in (usual, words):
        for plan in range(PLANS):
            for (number, ids, places, shown), logits in masked_predictions(kept, pieces, scheme, plan):
                said, own = logits.argmax(dim=1).tolist(), [ids[place] for place in places]
                right = [float(a == b) for a, b in zip(said, own, strict=True)]
                if scheme is words:
                    kinds["whole words"] += whole_word_hits(kept, ids, places, right)
                    continue
                for place, now, hit in zip(places, shown, right, strict=True):
                    kind = "mask" if now == kept.tokenizer.roles["mask"] else "kept" if now == ids[place] else "other"
                    kinds[kind].append(hit)
                kinds["all"] += right
                by_text[number] += sum(right), len(right)
    if not kinds["mask"]:
        raise BertGPTError("BG310", "these texts are too short to hide anything of them")
    some = by_text[by_text[:, 1] > 0]
    low, high = bootstrap_ratio(some[:, 0].tolist(), some[:, 1].tolist())
    scores = {"accuracy of the mask": ScoreWithInterval.from_correct(kinds["mask"])}
    scores |= {
        f"accuracy of {kind}": ScoreWithInterval.from_correct(kinds[kind]) for kind in ("other", "kept") if kinds[kind]
    }
    scores["accuracy of all"] = ScoreWithInterval(sum(kinds["all"]) / len(kinds["all"]), low, high)
    if kinds["whole words"]:
        scores["whole words"] = ScoreWithInterval.from_correct(kinds["whole words"])
    items["correct"], items["targets"] = by_text[:, 0].tolist(), by_text[:, 1].tolist()
    baselines = {"the most common token": ScoreWithInterval(unigram_baseline(pieces))}
    notes = [f"{PLANS} plans, 15 % hidden; the share depends on the tokenizer, {kept.tokenizer.fingerprint[:12]}"]
    return EvalResult("mlm", "mlm.80-10-10.five-plans/1", len(texts), scores, baselines, dict(items), notes=notes)


def segment_text(kept: PretrainedModel, text: str, number: int) -> list[tuple[int, list[int]]]:
    """A text as pieces that fit into rows."""
    ids = kept.tokenizer.encode(text)
    pieces = split_into_segments(
        np.zeros(1, np.int64),
        np.array([len(ids)]),
        WordBoundaries(kept.tokenizer.starts_word[ids]),
        kept.max_length - 2,
    )
    spans = zip(pieces.a_start.tolist(), pieces.a_len.tolist(), strict=True)
    return [(number, ids[start : start + size]) for start, size in spans]


def masked_predictions(
    kept: PretrainedModel, pieces: Sequence[tuple[int, list[int]]], scheme: MaskingScheme, plan: int
) -> Any:
    """Pieces with what is hidden of them in a plan, what is shown there, and the logits of that."""
    tokenizer = kept.tokenizer
    ordinary = np.array(sorted(set(tokenizer.vocab.values()) - tokenizer.special_ids), tokenizer.dtype)
    vocabulary = MaskingVocab(tokenizer.roles["mask"], ordinary, tokenizer.starts_word)
    rows, gaps, told = [], [], []
    for sample, (number, ids) in enumerate(pieces):
        row = np.array([ids], tokenizer.dtype)
        begins = np.zeros(row.shape, np.bool_)
        begins[0, :1] = True
        key = (np.array([sample]), np.array([plan]))
        found = draw_masks(row, np.ones(row.shape, np.bool_), begins, *key, SEED, scheme, vocabulary)
        places = found.positions[0][found.scored[0]].tolist()
        shown = found.replacements[0][found.scored[0]].tolist()
        if places:
            holed = list(ids)
            for place, now in zip(places, shown, strict=True):
                holed[place] = now
            rows.append(holed)
            gaps.append(places)
            told.append((number, ids, places, shown))
    for at, logits in masked_logits_batched(kept, rows, gaps):
        yield told[at], logits


def whole_word_hits(
    kept: PretrainedModel, ids: Sequence[int], places: Sequence[int], right: Sequence[float]
) -> list[float]:
    """Of each hidden word, whether all of its ids were found."""
    found: list[float] = []
    before = -2
    for place, hit in zip(places, right, strict=True):
        if place == before + 1 and not kept.tokenizer.starts_word[ids[place]]:
            found[-1] = min(found[-1], hit)
        else:
            found.append(hit)
        before = place
    return found


def unigram_baseline(pieces: Sequence[tuple[int, list[int]]]) -> float:
    """The share of the token that there is most of."""
    counts = np.bincount(np.concatenate([np.array(ids, np.int64) for _, ids in pieces]))
    return float(counts.max() / counts.sum())
