"""A model for use from Python: `bertgpt.load("runs/gpt")`."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from bertgpt.hub.pretrained import PretrainedModel, not_a_language_model
from bertgpt.inference.classify import classify, probabilities
from bertgpt.inference.embed import Pooling, embed
from bertgpt.inference.fill_mask import FillMask
from bertgpt.inference.generate import GenerationOptions, Generator, Sample
from bertgpt.inference.load import load_model
from bertgpt.inference.scoring import SequenceScore, score_texts
from bertgpt.training.device import DTYPES, resolve_device
from bertgpt.utils.errors import BertGPTError


class LanguageModel:
    """A model with its tokenizer: generates text, fills masks, scores, embeds and classifies texts.

    Every method takes one text or a list of texts, and returns a result for each. What goes wrong is a BertGPTError: a
    text that is not a string or not UTF-8, an option out of range, or something that this kind of model cannot do.
    """

    def __init__(self, pretrained: PretrainedModel) -> None:
        self.pretrained = pretrained

    @property
    def can_generate(self) -> bool:
        """Whether the model is causal: a GPT or a hybrid."""
        return self.pretrained.objective != "mlm"

    @property
    def can_fill_mask(self) -> bool:
        """Whether the model is bidirectional: a BERT or a hybrid."""
        return self.pretrained.objective != "clm"

    @property
    def mask_token(self) -> str:
        """The mask token, usually [MASK]."""
        roles = self.pretrained.tokenizer.roles
        return self.pretrained.tokenizer.tokens[roles["mask"]] if "mask" in roles else "[MASK]"

    def generate(self, prompts: str | Sequence[str] = "", **options: Unpack[GenerationOptions]) -> list[dict[str, Any]]:
        """Generate text: `num_samples` results for each prompt, with its `text`, `tokens`, `logprobs`, `finish_reason`.

        `text` is without the prompt; `finish_reason` is "eos", "stop" or "length". Options are those of the command
        line: temperature, top_k, top_p, repetition_penalty, max_new_tokens, num_samples, stop, seed, truncate.
        Needs a causal model or a hybrid.
        """
        self.require_causal()
        return Generator.from_options(**options)(self.pretrained, as_list(prompts))

    def stream(self, prompts: str | Sequence[str] = "", **options: Unpack[GenerationOptions]) -> Iterator[list[Sample]]:
        """Generate text as `generate` does, and yield all samples, finished or not, after every decoding step."""
        self.require_causal()
        generator = Generator.from_options(**options)
        samples = generator.start(self.pretrained, as_list(prompts))
        return (samples for _ in generator.decode(self.pretrained, samples))

    def fill_mask(self, texts: str | Sequence[str], candidates: int = 5) -> list[dict[str, Any]]:
        """Fill the [MASK] tokens of texts: dicts of `prompt`, the filled `text`, and `masks`.

        Each of `masks` has its `candidates`, best first: `token` (id), `token_str` and `score` (probability). Needs a
        masked language model or a hybrid.
        """
        self.require_mlm()
        return [FillMask(candidates).fill(self.pretrained, text) for text in as_list(texts)]

    def mask_and_predict(self, text: str, candidates: int = 5, seed: int = 1337) -> dict[str, Any]:
        """Mask 15 % of a text's tokens and predict them: `accuracy`, and `masks` with `label` and `prediction`.

        `FillMask.mask_and_predict` describes the result. Needs a masked language model or a hybrid, and a text that is
        not too short to mask.
        """
        self.require_mlm()
        return FillMask(candidates, seed).mask_and_predict(self.pretrained, text)

    def score(self, texts: str | Sequence[str], stride: int | None = None) -> list[SequenceScore]:
        """Score texts: log-probabilities of their tokens, and bits per byte.

        A masked language model gives pseudo-log-likelihoods, and refuses a text longer than its context; other models
        score it in windows of `stride` new tokens.
        """
        self.require_language_model()
        return score_texts(self.pretrained, as_list(texts), stride)

    def embed(self, texts: str | Sequence[str], pooling: Pooling = "mean") -> NDArray[np.float32]:
        """Embed texts as (texts, dim). `pooling` is mean, first or last token, or pooled: BERT's pooler."""
        return embed(self.pretrained, as_list(texts), pooling)

    def classify(
        self, texts: str | Sequence[str], second_texts: str | Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Classify texts, or pairs of texts, with a fine-tuned model.

        Returns for each its `label`, the `score` (probability) of that, and the `scores` of all labels. A regression
        model has no labels: the `score` is its prediction. Needs a model with a classification head.
        """
        logits = classify(self.pretrained, as_list(texts), None if second_texts is None else as_list(second_texts))
        assert self.pretrained.head is not None
        labels = self.pretrained.head.labels
        if not labels:
            return [{"label": None, "score": score, "scores": {}} for score in logits[:, 0].tolist()]
        rows = probabilities(logits).tolist()
        best = logits.argmax(axis=1).tolist()
        return [
            {"label": labels[i], "score": probs[i], "scores": dict(zip(labels, probs, strict=True))}
            for i, probs in zip(best, rows, strict=True)
        ]

    def __repr__(self) -> str:
        kind = {"clm": "causal", "mlm": "masked", "hybrid": "hybrid"}[self.pretrained.objective]
        return f"<{kind} language model, {self.pretrained.model.num_parameters():,} parameters>"

    def require_language_model(self) -> None:
        """Refuse a fine-tuned model, whose language-modeling head no longer fits."""
        if self.pretrained.head is not None:
            raise not_a_language_model(self.pretrained.head)

    def require_causal(self) -> None:
        """Refuse generation with a masked language model."""
        self.require_language_model()
        if not self.can_generate:
            raise BertGPTError("BG222", "masked language model: generation is not supported")

    def require_mlm(self) -> None:
        """Refuse mask filling with a causal model."""
        self.require_language_model()
        if not self.can_fill_mask:
            raise BertGPTError("BG222", "causal model: mask filling is not supported")


def load(
    model: str | Path, device: str = "auto", precision: str = "fp32", prefix_token: str | None = None
) -> LanguageModel:
    """Load a model: a run, its final/, a checkpoint, a folder of transformers or a model of the hub.

    `device` is auto, cuda, mps or cpu; `precision` fp32, bf16 or fp16. bf16 is faster, but results may depend on what
    is computed in the same batch. `prefix_token`, put before prompts and contexts, is eos (an end token, the default of
    models trained here) or none (of imported ones). Raises BertGPTError if there is no model, or if it is corrupt or
    incomplete.
    """
    if precision not in DTYPES:
        raise BertGPTError("BG204", f"no such precision: {precision}", hint=", ".join(DTYPES))
    if device not in ("auto", "cuda", "mps", "cpu"):
        raise BertGPTError("BG204", f"no such device: {device}", hint="auto, cuda, mps, cpu")
    if prefix_token not in (None, "none", "eos"):
        raise BertGPTError("BG204", f"no such prefix token: {prefix_token}", hint="none, eos")
    pretrained = load_model(model)[0]
    if prefix_token is not None:
        pretrained = replace(pretrained, prefix_token=prefix_token)
    pretrained.module.to(resolve_device(device), DTYPES[precision])
    pretrained.model.prepack_weights()
    return LanguageModel(pretrained)


def as_list(texts: str | Sequence[str]) -> list[str]:
    """One text or several as a list; anything but strings is a BertGPTError."""
    result = [texts] if isinstance(texts, str) else list(texts)
    if not all(isinstance(text, str) for text in result):
        raise BertGPTError("BG204", "texts must be strings")
    return result
