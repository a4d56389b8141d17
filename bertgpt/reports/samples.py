"""What models have to say for a report: texts from nothing, and held-out words found or missed."""

from collections.abc import Sequence
from typing import Any

from bertgpt.inference.fill_mask import FillMask
from bertgpt.inference.generate import Generator
from bertgpt.inference.sampling import SamplingParams
from bertgpt.reports.runs import ReportRun
from bertgpt.utils.errors import BertGPTError

SEED, SAMPLES, LONGEST, QUIZZES, SHORTEST = 1337, 2, 80, 2, 60


def generate_samples(run: ReportRun) -> list[str]:
    """Texts of a model that goes on with text."""
    if run.kept.objective == "mlm":
        return []
    longest = min(LONGEST, run.kept.max_length - 2)
    generator = Generator(SamplingParams(temperature=0.8), max_new_tokens=longest, num_samples=SAMPLES, seed=SEED)
    return [sample["text"] for sample in generator(run.kept, [""])]


def masked_predictions(run: ReportRun, texts: Sequence[str]) -> list[dict[str, Any]]:
    """What a model that fills gaps makes of held-out texts with words hidden."""
    if run.kept.objective == "clm":
        return []
    found = []
    for text in [text for text in texts if len(text) >= SHORTEST][:QUIZZES]:
        try:
            found.append(FillMask(seed=SEED).mask_and_predict(run.kept, text))
        except BertGPTError as error:
            if error.code != "BG204":  # too short to hide anything of it
                raise
    return found
