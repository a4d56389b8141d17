"""Language modeling quality: perplexity and bits per byte of causal models, accuracy of masked language models."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bertgpt.data.loading.masking import MaskingScheme, MaskingVocab, draw_masks
from bertgpt.data.loading.segments import WordBoundaries, split_into_segments
from bertgpt.evals.intervals import bootstrap_ratio
from bertgpt.evals.results import EvalResult, ScoreWithInterval
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.scoring import masked_logits_batched, token_logprobs
from bertgpt.utils.errors import BertGPTError

EPOCHS, SEED = 5, 1337  # independent mask draws of each text


def perplexity(pretrained: PretrainedModel, texts: Sequence[str], stride: int | None) -> EvalResult:
    """Loss (nats per token), perplexity and bits per byte of texts; the end token is not scored.

    Windows over long texts are disjoint, or score `stride` tokens each. Intervals are the bootstrap's over texts.
    """
    if pretrained.objective == "mlm":
        raise BertGPTError("BG222", "lm needs a causal model", hint="eval mlm is for masked language models")
    rows = [pretrained.tokenizer.encode(text) for text in texts]
    nlls = [-math.fsum(logprobs) for logprobs in token_logprobs(pretrained, rows, stride)]
    sizes, counts = [len(text.encode()) for text in texts], list(map(len, rows))
    total, tokens = math.fsum(nlls), sum(counts)
    loss = ScoreWithInterval(total / tokens, *bootstrap_ratio(nlls, counts))
    scores = {"loss": loss, "ppl": loss.map(math.exp)}
    window, fingerprint = pretrained.max_length, pretrained.tokenizer.fingerprint[:12]
    notes = [f"context {window}, stride {stride or window}; tokenizer {fingerprint}"]
    token_bytes = pretrained.tokenizer.token_bytes
    if token_bytes is None:
        notes.append("no bits per byte: lossy tokenizer")
    else:
        if any(int(token_bytes[row].sum()) != size for row, size in zip(rows, sizes, strict=True)):
            raise BertGPTError("BG309", "token bytes do not add up to the bytes of the text")
        nats = ScoreWithInterval(total / sum(sizes), *bootstrap_ratio(nlls, sizes))
        scores["bits_per_byte"] = nats.map(lambda value: value / math.log(2))
    scores["tokens_per_byte"] = ScoreWithInterval(tokens / sum(sizes))
    baselines = {"uniform": ScoreWithInterval(math.log(pretrained.model.config.vocab_size))}
    items = {"nll": nlls, "tokens": counts, "bytes": sizes}
    definition = f"lm.{'disjoint' if stride in (None, window) else 'strided'}/1"
    return EvalResult("lm", definition, len(texts), scores, baselines, items, notes=notes)


class Segment(NamedTuple):
    """A part of a text that fits the model's context."""

    text: int  # index
    ids: list[int]


class MaskedSegment(NamedTuple):
    """A segment with some of its tokens selected for prediction, and the logits there."""

    segment: Segment
    positions: list[int]
    inputs: list[int]  # token ids that the model sees at these positions: [MASK], a random token, or the original
    logits: Tensor  # (positions, V)


def masked_accuracy(pretrained: PretrainedModel, texts: Sequence[str]) -> EvalResult:
    """Masked-token accuracy with BERT's 80/10/10 replacement, by what the model sees at a position, and whole-word
    accuracy.

    [MASK] measures the capability: a random token misleads, and a kept token can nearly be copied. For whole-word
    accuracy, all tokens of a word are masked and all must be predicted. Averages over five mask draws, the same for
    every model.
    """
    if pretrained.objective == "clm":
        raise BertGPTError("BG222", "mlm needs a masked language model", hint="eval lm is for causal models")
    segments = [segment for index, text in enumerate(texts) for segment in segment_text(pretrained, text, index)]
    # Correct predictions and targets of each text: tokens of a text are not independent, and are not resampled alone.
    counts: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros((len(texts), 2)))
    mask_id = pretrained.tokenizer.roles["mask"]
    for masked in predict_masked(pretrained, segments, MaskingScheme("token", seed=SEED)):
        correct = correct_predictions(masked)
        for position, shown, hit in zip(masked.positions, masked.inputs, correct, strict=True):
            kept = shown == masked.segment.ids[position]
            for kind in ("[MASK]" if shown == mask_id else "kept" if kept else "random", "all"):
                counts[kind][masked.segment.text] += hit, 1
    if "[MASK]" not in counts:
        raise BertGPTError("BG310", "texts too short to mask")
    whole_words = MaskingScheme("whole-word", mask_prob=1.0, random_prob=0.0, seed=SEED)
    for masked in predict_masked(pretrained, segments, whole_words):
        hits = whole_word_hits(pretrained, masked)
        counts["words"][masked.segment.text] += sum(hits), len(hits)
    kinds = [kind for kind in ("[MASK]", "random", "kept", "all") if kind in counts]
    scores = {f"accuracy, {kind}": pooled_accuracy(counts[kind]) for kind in kinds}
    if counts["words"].any():
        scores["whole-word accuracy"] = pooled_accuracy(counts["words"])
    items = {"correct": counts["all"][:, 0].tolist(), "targets": counts["all"][:, 1].tolist()}
    baselines = {"most frequent token": ScoreWithInterval(unigram_baseline(segments))}
    fingerprint = pretrained.tokenizer.fingerprint[:12]
    notes = [f"{EPOCHS} mask draws, 15 % of tokens; accuracy depends on the tokenizer, {fingerprint}"]
    return EvalResult("mlm", "mlm.80-10-10.five-draws/1", len(texts), scores, baselines, items, notes=notes)


def pooled_accuracy(counts: NDArray[np.float64]) -> ScoreWithInterval:
    """Accuracy over all targets; `counts` (texts, 2) are the correct ones and all of each text, which are resampled."""
    correct, targets = counts[counts[:, 1] > 0].T.tolist()
    return ScoreWithInterval(sum(correct) / sum(targets), *bootstrap_ratio(correct, targets))


def segment_text(pretrained: PretrainedModel, text: str, index: int) -> list[Segment]:
    """Split a text into segments that fit the model's context, at word boundaries."""
    ids = pretrained.tokenizer.encode(text)
    boundaries = WordBoundaries(pretrained.tokenizer.starts_word[ids])
    spans = split_into_segments(np.zeros(1, np.int64), np.array([len(ids)]), boundaries, pretrained.max_length - 2)
    pairs = zip(spans.a_start.tolist(), spans.a_len.tolist(), strict=True)
    return [Segment(index, ids[start : start + length]) for start, length in pairs]


def predict_masked(
    pretrained: PretrainedModel, segments: Sequence[Segment], scheme: MaskingScheme
) -> Iterator[MaskedSegment]:
    """Mask segments `EPOCHS` times, and predict the masked tokens."""
    tokenizer = pretrained.tokenizer
    ordinary = np.array(sorted(set(tokenizer.vocab.values()) - tokenizer.special_ids), tokenizer.dtype)
    vocab = MaskingVocab(tokenizer.roles["mask"], ordinary, tokenizer.starts_word)
    for epoch in range(EPOCHS):
        rows, masks = [], []
        for sample, segment in enumerate(segments):
            input_ids = np.array([segment.ids], tokenizer.dtype)  # (1, L)
            starts_sentence = np.zeros(input_ids.shape, np.bool_)
            starts_sentence[0, :1] = True
            maskable = np.ones(input_ids.shape, np.bool_)
            key = (np.array([sample]), np.array([epoch]))
            drawn = draw_masks(input_ids, maskable, starts_sentence, *key, scheme, vocab)
            positions = drawn.positions[0][drawn.valid[0]].tolist()
            if positions:
                inputs = drawn.replacements[0][drawn.valid[0]].tolist()
                input_ids[0, positions] = inputs
                rows.append(input_ids[0].tolist())
                masks.append((segment, positions, inputs))
        for index, logits in masked_logits_batched(pretrained, rows, [positions for _, positions, _ in masks]):
            yield MaskedSegment(*masks[index], logits)


def correct_predictions(masked: MaskedSegment) -> list[float]:
    """1 for each position whose most likely token is the original one, else 0."""
    targets = [masked.segment.ids[position] for position in masked.positions]
    predictions = masked.logits.argmax(dim=1).tolist()
    return [float(prediction == target) for prediction, target in zip(predictions, targets, strict=True)]


def whole_word_hits(pretrained: PretrainedModel, masked: MaskedSegment) -> list[float]:
    """1 for each masked word all of whose tokens are predicted correctly, else 0."""
    words: list[float] = []
    previous = -2
    for position, hit in zip(masked.positions, correct_predictions(masked), strict=True):
        if position == previous + 1 and not pretrained.tokenizer.starts_word[masked.segment.ids[position]]:
            words[-1] = min(words[-1], hit)
        else:
            words.append(hit)
        previous = position
    return words


def unigram_baseline(segments: Sequence[Segment]) -> float:
    """Accuracy of always predicting the most frequent token."""
    counts = np.bincount(np.concatenate([np.array(segment.ids, np.int64) for segment in segments]))
    return float(counts.max() / counts.sum())
