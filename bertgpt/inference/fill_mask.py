"""Text with gaps, filled by a model that looks both ways."""

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
    """How gaps are filled: `candidates` says how many ways to fill each are told."""

    candidates: int = 5
    seed: int = 1337

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise BertGPTError("BG204", "candidates is 1 or more")

    def fill(self, kept: PretrainedModel, text: str) -> dict[str, Any]:
        """A text in which the mask stands for what is missing: with the likeliest in each gap, and what else may be."""
        tokenizer, ids = kept.tokenizer, encode_with_masks(kept.tokenizer, text)
        gaps = [place for place, i in enumerate(ids) if i == tokenizer.roles["mask"]]
        masks = [{"candidates": self.top_candidates(kept, logits)} for logits in logits_at_masks(kept, ids, gaps)]
        made, *after = text.split(tokenizer.tokens[tokenizer.roles["mask"]])
        for mask, part in zip(masks, after, strict=True):
            made = append_token(tokenizer, made, mask["candidates"][0]["text"]) + part
        return {"prompt": text, "text": made, "masks": masks}

    def mask_and_predict(self, kept: PretrainedModel, text: str) -> dict[str, Any]:
        """Hide words of a text, and see which of them the model finds.

        As in training, 15 % of the ids, in pieces that fit into a row; the mask stands for every one of them.
        """
        tokenizer, ids = kept.tokenizer, encode_checked(kept.tokenizer, text.strip())
        begins = tokenizer.starts_word[ids]
        pieces = split_into_segments(
            np.zeros(1, np.int64), np.array([len(ids)]), WordBoundaries(begins), kept.max_length - 2
        )
        shown, masks = list(ids), []
        for number, (start, size) in enumerate(zip(pieces.a_start.tolist(), pieces.a_len.tolist(), strict=True)):
            some = ids[start : start + size]
            gaps = sample_mask_positions(tokenizer, some, number, self.seed)
            for place, logits in zip(gaps, next(masked_logits(kept, some, [gaps])) if gaps else [], strict=True):
                told = self.top_candidates(kept, logits)
                shown[start + place] = told[0]["token"]
                mask = {"place": start + place, "token": some[place], "correct": told[0]["token"] == some[place]}
                masks.append(mask | {"candidates": told})
        if not masks:
            raise BertGPTError("BG204", "this text is too short to hide anything of it", hint="give some sentences")
        accuracy = sum(mask["correct"] for mask in masks) / len(masks)
        result = {"prompt": text, "text": tokenizer.decode(shown), "masks": masks, "accuracy": accuracy}
        return result | {"segments": to_segments(tokenizer, ids, masks)}

    def top_candidates(self, kept: PretrainedModel, logits: Tensor) -> list[dict[str, Any]]:
        """What a gap may be filled with, the likeliest first; nothing that is no part of a text."""
        tokenizer, unsaid = kept.tokenizer, kept.suppressed_ids()
        odds = logits.double().softmax(dim=0)
        odds[unsaid] = -1.0
        odds, ids = odds.topk(min(self.candidates, len(logits) - len(unsaid)))
        pairs = zip(ids.tolist(), odds.tolist(), strict=True)
        return [{"token": i, "text": decode_fragment(tokenizer, [i]), "probability": odd} for i, odd in pairs]


def append_token(tokenizer: Tokenizer, before: str, token: str) -> str:
    """A text with one more token behind it, in the place of a mask, which takes the space before it as words do."""
    if tokenizer.kind == "bpe":
        return before.removesuffix(" ") + (token if before else token.lstrip(" "))
    return before.removesuffix(" ") + token[2:] if token.startswith("##") else before + token.removeprefix(" ")


def encode_with_masks(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text in which the mask is spelled out; it takes the space before it, as words do."""
    mask = tokenizer.roles["mask"]
    *before, last = text.split(tokenizer.tokens[mask])
    bytewise = tokenizer.kind == "bpe"
    ids = []
    for part in before:
        ids += [*encode_checked(tokenizer, part.removesuffix(" ") if bytewise else part), mask]
    return ids + encode_checked(tokenizer, last)


def logits_at_masks(kept: PretrainedModel, ids: Sequence[int], gaps: Sequence[int]) -> list[Tensor]:
    """The logits of each gap: all in one row if the text fits, else each in the midst of a row of its own."""
    longest = kept.max_length - 2
    if not gaps:
        return []
    if len(ids) <= longest:
        return list(next(masked_logits(kept, ids, [gaps])))
    found = []
    for gap in gaps:
        first = min(max(0, gap - longest // 2), len(ids) - longest)
        some = ids[first : first + longest]
        places = [place - first for place in gaps if first <= place < first + longest]
        found.append(next(masked_logits(kept, some, [places]))[places.index(gap - first)])
    return found


def sample_mask_positions(tokenizer: Tokenizer, ids: Sequence[int], number: int, seed: int) -> list[int]:
    """What is hidden of a piece, drawn as `bertgpt mask` draws it: whole words, or ids if there is no word so short."""
    row = np.array([ids], tokenizer.dtype)
    text, begins = np.ones(row.shape, np.bool_), np.zeros(row.shape, np.bool_)
    begins[0, 0] = True
    vocabulary = MaskingVocab(tokenizer.roles["mask"], np.zeros(1, tokenizer.dtype), tokenizer.starts_word)
    key = (np.array([number]), np.zeros(1, np.int64))
    places: list[int] = []
    for units in ("whole-word", "token"):
        if not places:
            scheme = MaskingScheme(units, mask_prob=1.0, random_prob=0.0)
            found = draw_masks(row, text, begins, *key, seed, scheme, vocabulary)
            places = found.positions[0][found.scored[0]].tolist()
    return places


def to_segments(tokenizer: Tokenizer, ids: Sequence[int], masks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A text as people read it: stretches that were shown, and between them words that were hidden, and guessed."""
    words: list[list[dict[str, Any]]] = []
    for mask in masks:
        inside = words and mask["place"] == words[-1][-1]["place"] + 1 and not tokenizer.starts_word[mask["token"]]
        words[-1:] = [[*words[-1], mask]] if inside else [*words[-1:], [mask]]
    segments: list[dict[str, Any]] = []
    begin = 0
    for word in words:
        start, stop = word[0]["place"], word[-1]["place"] + 1
        if begin < start:
            segments.append({"text": decode_fragment(tokenizer, ids[begin:start])})
        guess = decode_fragment(tokenizer, [mask["candidates"][0]["token"] for mask in word])
        right = all(mask["correct"] for mask in word)
        segments.append({"text": decode_fragment(tokenizer, ids[start:stop]), "guess": guess, "correct": right})
        begin = stop
    if begin < len(ids):
        segments.append({"text": decode_fragment(tokenizer, ids[begin:])})
    segments[0]["text"] = segments[0]["text"].removeprefix(" ")
    return segments


def format_segment(segment: dict[str, Any]) -> tuple[str, str]:
    """A stretch of a quiz as people read it, and its colour: {word} was hidden and found, {word: guess} was not."""
    text = str(segment["text"])
    if "guess" not in segment:
        return text, ""
    space, word = (" ", text[1:]) if text.startswith(" ") else ("", text)
    if segment["correct"]:
        return f"{space}{{{word}}}", "green"
    return f"{space}{{{word}: {segment['guess'].strip()}}}", "red"
