"""Models of every family with weights as no initialisation makes them, for what must be the same elsewhere."""

from pathlib import Path

import torch

from bertgpt import saved
from bertgpt.model import Classifier, Transformer
from bertgpt.presets import BERT, GPT2, MODERN, shape
from bertgpt.saved import Saved
from bertgpt.tokens.tokenizer import Tokenizer

FAMILIES = {
    "gpt2": (GPT2, "causal"),
    "bert": (BERT, "masked"),
    "encoder": (MODERN, "masked"),
    "decoder": (MODERN, "causal"),
}


def written(folder: Path, family: str, tokenizer: Tokenizer) -> Saved:
    """A model with weights as no initialisation makes them, saved as a run has it."""
    switches, objective = FAMILIES[family]
    model = Transformer(shape(64, 4, 4, tokenizer.max_id + 1, switches | {"context": 128}, ffn=96)).eval()
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=draws) * 0.05 + name.endswith("norm.weight"))
    kept = Saved(model, tokenizer, objective)
    saved.save(kept, folder / "final", "# a model\n")
    return kept


def classifier_of(model: Transformer, causal: bool) -> Classifier:
    """For three labels."""
    classifier = Classifier(model, 3, causal).eval()
    with torch.no_grad():
        for weight in classifier.out.parameters():
            weight.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    return classifier
