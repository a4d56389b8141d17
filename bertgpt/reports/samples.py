"""Output of the models for the report: generated samples, and masked predictions on validation documents."""

from collections.abc import Sequence
from typing import Any

from bertgpt.inference.fill_mask import FillMask
from bertgpt.inference.generate import Generator
from bertgpt.inference.sampling import SamplingParams
from bertgpt.reports.runs import ReportRun
from bertgpt.utils.errors import BertGPTError

SEED, NUM_SAMPLES, MAX_NEW_TOKENS, MASKED_TEXTS, MIN_CHARACTERS = 1337, 2, 80, 2, 60


def generate_samples(run: ReportRun) -> list[str]:
    """Unconditional samples; none from a masked language model."""
    if run.pretrained.objective == "mlm":
        return []
    max_new_tokens = min(MAX_NEW_TOKENS, run.pretrained.max_length - 2)
    generator = Generator(
        SamplingParams(temperature=0.8), max_new_tokens=max_new_tokens, num_samples=NUM_SAMPLES, seed=SEED
    )
    return [sample["text"] for sample in generator(run.pretrained, [""])]


def masked_predictions(run: ReportRun, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Predictions for masked tokens of validation documents; none from a causal model."""
    if run.pretrained.objective == "clm":
        return []
    results = []
    for text in [text for text in texts if len(text) >= MIN_CHARACTERS][:MASKED_TEXTS]:
        try:
            results.append(FillMask(seed=SEED).mask_and_predict(run.pretrained, text))
        except BertGPTError as error:
            if error.code != "BG204":  # text too short to mask
                raise
    return results
