"""Fill masks with a masked language model, and measure it by masking tokens of a text and predicting them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from bertgpt.data.loading.masking import MaskingScheme, MaskingVocab, draw_masks
from bertgpt.data.loading.segments import WordBoundaries, split_into_segments
from bertgpt.data.tokenizers.detokenize import decode_fragment, encode_checked
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.scoring import masked_logits
from bertgpt.utils.errors import BertGPTError


@dataclass(frozen=True)
class FillMask:
    """Fills masks, with `candidates` predictions for each."""

    candidates: int = 5
    seed: int = 1337  # of the positions that `mask_and_predict` masks

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise BertGPTError("BG204", "candidates must be 1 or more")

    def fill(self, pretrained: PretrainedModel, text: str) -> dict[str, Any]:
        """Fill the masks of a text.

        Returns `prompt`, the `text` with the most likely token at each mask, and `masks`, each with its `candidates`:
        dicts of `token` (id), `token_str` and `score` (probability), as in the fill-mask pipeline of transformers.
        """
        tokenizer = pretrained.tokenizer
        mask_id, ids = tokenizer.roles["mask"], encode_with_masks(tokenizer, text)
        positions = [position for position, i in enumerate(ids) if i == mask_id]
        masks = [
            {"candidates": self.top_candidates(pretrained, logits)}
            for logits in logits_at_masks(pretrained, ids, positions)
        ]
        filled, *after = text.split(tokenizer.tokens[mask_id])
        for mask, part in zip(masks, after, strict=True):
            filled = append_token(tokenizer, filled, mask["candidates"][0]["token_str"]) + part
        return {"prompt": text, "text": filled, "masks": masks}

    def mask_and_predict(self, pretrained: PretrainedModel, text: str) -> dict[str, Any]:
        """Mask 15 % of a text's tokens, whole words if possible, and predict them; long texts are split into segments.

        Returns `prompt`, the `text` as predicted, its `accuracy`, `masks`, each with its `position`, `label` and
        `prediction` (ids), `prob` of the prediction, whether it is `correct`, and `candidates` as `fill` has them, and
        `segments` of text, those of masked words with their `prediction`. A text too short to mask is a BertGPTError.
        """
        tokenizer = pretrained.tokenizer
        ids = encode_checked(tokenizer, text.strip())
        predicted, masks = list(ids), []
        spans = split_into_segments(
            np.zeros(1, np.int64), np.array([len(ids)]), WordBoundaries(tokenizer.starts_word[ids]),
            pretrained.max_length - 2,
        )  # fmt: skip
        for number, (start, size) in enumerate(zip(spans.a_start.tolist(), spans.a_len.tolist(), strict=True)):
            segment = ids[start : start + size]
            positions = sample_mask_positions(tokenizer, segment, number, self.seed)
            if not positions:
                continue
            for position, logits in zip(positions, next(masked_logits(pretrained, segment, [positions])), strict=True):
                candidates = self.top_candidates(pretrained, logits)
                label, prediction = segment[position], candidates[0]["token"]
                predicted[start + position] = prediction
                masks.append({
                    "position": start + position, "label": label, "prediction": prediction,
                    "prob": candidates[0]["score"], "correct": prediction == label, "candidates": candidates,
                })  # fmt: skip
        if not masks:
            raise BertGPTError("BG204", "text too short to mask", hint="give some sentences")
        accuracy = sum(mask["correct"] for mask in masks) / len(masks)
        return {
            "prompt": text, "text": tokenizer.decode(predicted), "masks": masks, "accuracy": accuracy,
            "segments": to_segments(tokenizer, ids, masks),
        }  # fmt: skip

    def top_candidates(self, pretrained: PretrainedModel, logits: Tensor) -> list[dict[str, Any]]:
        """The most likely tokens for logits (V,), best first, without special tokens."""
        suppressed = pretrained.suppressed_ids()
        probs = logits.cpu().double().softmax(dim=0)  # MPS has no fp64
        probs[suppressed] = -1.0
        top = probs.topk(min(self.candidates, len(logits) - len(suppressed)))
        return [
            {"token": i, "token_str": decode_fragment(pretrained.tokenizer, [i]), "score": prob}
            for i, prob in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]


def append_token(tokenizer: Tokenizer, text: str, token: str) -> str:
    """Append a token to a text that ended before a mask; a mask takes the space before it, as words do."""
    if tokenizer.kind == "bpe":
        return text.removesuffix(" ") + (token if text else token.lstrip(" "))
    return text.removesuffix(" ") + token[2:] if token.startswith("##") else text + token.removeprefix(" ")


def encode_with_masks(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode a text that contains the mask token, which takes the space before it, as words do."""
    mask_id = tokenizer.roles["mask"]
    *before, last = text.split(tokenizer.tokens[mask_id])
    is_bpe = tokenizer.kind == "bpe"
    ids = []
    for part in before:
        ids += [*encode_checked(tokenizer, part.removesuffix(" ") if is_bpe else part), mask_id]
    return ids + encode_checked(tokenizer, last)


def logits_at_masks(pretrained: PretrainedModel, ids: Sequence[int], positions: Sequence[int]) -> list[Tensor]:
    """The logits (V,) at each mask: in one row if the text fits, else each in a row of the text around it."""
    longest = pretrained.max_length - 2
    if not positions:
        return []
    if len(ids) <= longest:
        return list(next(masked_logits(pretrained, ids, [positions])))
    result = []
    for position in positions:
        first = min(max(0, position - longest // 2), len(ids) - longest)
        inside = [other - first for other in positions if first <= other < first + longest]
        logits = next(masked_logits(pretrained, ids[first : first + longest], [inside]))
        result.append(logits[inside.index(position - first)])
    return result


def sample_mask_positions(tokenizer: Tokenizer, ids: Sequence[int], number: int, seed: int) -> list[int]:
    """Sample the positions to mask as `bertgpt mask` does: whole words, or tokens if all words are too long."""
    row = np.array([ids], tokenizer.dtype)
    maskable, starts_sentence = np.ones(row.shape, np.bool_), np.zeros(row.shape, np.bool_)
    starts_sentence[0, 0] = True
    vocab = MaskingVocab(tokenizer.roles["mask"], np.zeros(1, tokenizer.dtype), tokenizer.starts_word)
    key = (np.array([number]), np.zeros(1, np.int64))
    positions: list[int] = []
    for unit in ("whole-word", "token"):
        if not positions:
            scheme = MaskingScheme(unit, mask_prob=1.0, random_prob=0.0, seed=seed)
            masks = draw_masks(row, maskable, starts_sentence, *key, scheme, vocab)
            positions = masks.positions[0][masks.valid[0]].tolist()
    return positions


def to_segments(tokenizer: Tokenizer, ids: Sequence[int], masks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Split a text for display into unmasked `text` and masked words with `prediction` and `correct`.

    Neighboring masks of the same word are one segment.
    """
    words: list[list[dict[str, Any]]] = []
    for mask in masks:
        continues = words and mask["position"] == words[-1][-1]["position"] + 1
        if continues and not tokenizer.starts_word[mask["label"]]:
            words[-1].append(mask)
        else:
            words.append([mask])
    segments: list[dict[str, Any]] = []
    end = 0
    for word in words:
        start, stop = word[0]["position"], word[-1]["position"] + 1
        if end < start:
            segments.append({"text": decode_fragment(tokenizer, ids[end:start])})
        prediction = decode_fragment(tokenizer, [mask["prediction"] for mask in word])
        correct = all(mask["correct"] for mask in word)
        text = decode_fragment(tokenizer, ids[start:stop])
        segments.append({"text": text, "prediction": prediction, "correct": correct})
        end = stop
    if end < len(ids):
        segments.append({"text": decode_fragment(tokenizer, ids[end:])})
    segments[0]["text"] = segments[0]["text"].removeprefix(" ")
    return segments


def format_segment(segment: dict[str, Any]) -> tuple[str, str]:
    """A segment as text and its color: {word} was masked and predicted correctly, {word: prediction} was not."""
    text = str(segment["text"])
    if "prediction" not in segment:
        return text, ""
    space, word = (" ", text[1:]) if text.startswith(" ") else ("", text)
    if segment["correct"]:
        return f"{space}{{{word}}}", "green"
    return f"{space}{{{word}: {segment['prediction'].strip()}}}", "red"
