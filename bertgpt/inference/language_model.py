"""A model to work with from Python: `bertgpt.load("runs/gpt")`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.embed import Pooling, embed
from bertgpt.inference.fill_mask import FillMask
from bertgpt.inference.generate import Generator, StreamCallback
from bertgpt.inference.load import load_model
from bertgpt.inference.sampling import SamplingParams
from bertgpt.inference.scoring import SequenceScore, score_texts
from bertgpt.training.device import DTYPES, resolve_device
from bertgpt.utils.errors import BertGPTError

GENERATE_OPTIONS = ("max_new_tokens", "num_samples", "stop", "seed", "truncate")


class LanguageModel:
    """A model with its tokenizer: goes on with text, fills gaps, makes vectors of texts, says how likely they are."""

    def __init__(self, kept: PretrainedModel) -> None:
        self.pretrained = kept

    @property
    def can_generate(self) -> bool:
        """Whether it looks back: a GPT or a hybrid."""
        return self.pretrained.objective != "mlm"

    @property
    def can_fill_mask(self) -> bool:
        """Whether it looks both ways: a BERT or a hybrid."""
        return self.pretrained.objective != "clm"

    @property
    def mask(self) -> str:
        """What stands for a gap in a text."""
        roles = self.pretrained.tokenizer.roles
        return self.pretrained.tokenizer.tokens[roles["mask"]] if "mask" in roles else "[MASK]"

    def generate(
        self,
        prompts: str | Sequence[str] = "",
        watch: StreamCallback | None = None,
        *,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        **how: Any,
    ) -> list[dict[str, Any]]:
        """Samples that go on with prompts: `prompt`, `text`, `tokens`, `logprobs`, and why each `ended`.

        `how` may be max_new_tokens, num_samples, stop, seed and truncate, as on the command line.
        """
        if not self.can_generate:
            raise BertGPTError("BG222", "this is a masked model: it fills gaps, and does not go on with text")
        sampling = SamplingParams(temperature, top_k, top_p, repetition_penalty)
        if unknown := how.keys() - GENERATE_OPTIONS:
            raise BertGPTError(
                "BG208", f"there is no option {unknown.pop()}", hint=f"there are {', '.join(GENERATE_OPTIONS)}"
            )
        how["stop"] = as_list(how.get("stop", []))
        return Generator(sampling, **how)(self.pretrained, as_list(prompts), watch)

    def fill(self, texts: str | Sequence[str], candidates: int = 5) -> list[dict[str, Any]]:
        """Texts with [MASK] in them, filled: `prompt`, `text`, and for each of the `masks` its `candidates`."""
        self.require_mlm()
        return [FillMask(candidates).fill(self.pretrained, text) for text in as_list(texts)]

    def mask_and_predict(self, text: str, candidates: int = 5, seed: int = 1337) -> dict[str, Any]:
        """Hide words of a text, and see which of them the model finds."""
        self.require_mlm()
        return FillMask(candidates, seed).mask_and_predict(self.pretrained, text)

    def embed(self, texts: str | Sequence[str], pooling: Pooling = "mean") -> NDArray[np.float32]:
        """A vector for each text, (texts, width)."""
        return embed(self.pretrained, as_list(texts), pooling)

    def score(self, texts: str | Sequence[str], stride: int | None = None) -> list[SequenceScore]:
        """How likely each text is, token by token, and in bits per byte. A BERT's are pseudo-log-likelihoods.

        A text that is longer than the model's rows is read in windows, which score `stride` tokens each.
        """
        return score_texts(self.pretrained, as_list(texts), stride)

    def __repr__(self) -> str:
        return f"<{self.pretrained.objective} model of {self.pretrained.model.num_parameters():,} weights>"

    def require_mlm(self) -> None:
        """Refuse what only a model that looks both ways can do."""
        if not self.can_fill_mask:
            raise BertGPTError("BG222", "this is a causal model: it goes on with text, and does not fill gaps")


def load(model: str | Path, device: str = "auto", precision: str = "fp32") -> LanguageModel:
    """A run, its final/, a checkpoint, a folder of transformers or a model of the hub.

    In bf16 it is faster, and what it says may depend on how much it is asked at once.
    """
    if precision not in DTYPES:
        raise BertGPTError("BG204", f"there is no precision {precision}", hint=", ".join(DTYPES))
    if device not in ("auto", "cuda", "mps", "cpu"):
        raise BertGPTError("BG204", f"there is no device {device}", hint="auto, cuda, mps, cpu")
    kept = load_model(str(model))[0]
    kept.module.to(resolve_device(device), DTYPES[precision])
    kept.model.prepack_weights()
    return LanguageModel(kept)


def as_list(texts: str | Sequence[str]) -> list[str]:
    """One text, or some."""
    found = [texts] if isinstance(texts, str) else list(texts)
    if not all(isinstance(text, str) for text in found):
        raise BertGPTError("BG204", "texts are strings")
    return found
