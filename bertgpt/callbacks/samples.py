"""Samples during training: generated text and filled masks, appended to samples.txt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.fill_mask import FillMask, format_segment
from bertgpt.inference.generate import Generator
from bertgpt.inference.sampling import SamplingParams
from bertgpt.training.callback import TrainerView
from bertgpt.utils.console import printable
from bertgpt.utils.files import write_text

MIN_TOKENS = 4  # 15 % of fewer tokens would mask none
HEADING = "======== step "


@dataclass(frozen=True)
class SampleCallback:
    """Writes samples of the current model to a file: the same text for the same step, however often it runs."""

    path: Path
    every: int
    tokenizer: Tokenizer
    objective: str
    length: int  # of rows
    text: str  # from the val split, to mask tokens of
    seed: int
    name: str = "samples"

    def __call__(self, view: TrainerView) -> dict[str, Any] | None:
        """Append the samples of this step; there are no metrics."""
        if view.dist.is_main:
            model = PretrainedModel(view.model.eval(), self.tokenizer, self.objective, seq_len=self.length)
            texts = [*self.generate(model), *self.fill_masks(model)]
            samples = "".join(printable(text.replace(HEADING, "")) + "\n\n" for text in texts)
            entry = f"{HEADING}{view.step:,}\n\n{samples}"
            write_text(self.path, self.entries_before(view.step) + entry)
        return None

    def entries_before(self, step: int) -> str:
        """Entries of earlier steps. After resuming from an older checkpoint the file has later ones too: drop them."""
        if not self.path.exists():
            return ""
        entries = self.path.read_text(encoding="utf-8").split(HEADING)[1:]
        earlier = (entry for entry in entries if int(entry.partition("\n")[0].replace(",", "")) < step)
        return "".join(HEADING + entry for entry in earlier)

    def generate(self, model: PretrainedModel) -> list[str]:
        """Unconditional samples of a causal model."""
        if self.objective == "mlm":
            return []
        generator = Generator(SamplingParams(temperature=0.8), max_new_tokens=100, num_samples=3, seed=self.seed)
        return [sample["text"] for sample in generator(model, [""])]

    def fill_masks(self, model: PretrainedModel) -> list[str]:
        """A text with masked tokens and what a masked language model predicts for them."""
        if self.objective == "clm" or len(self.tokenizer.encode(self.text.strip())) < MIN_TOKENS:
            return []
        result = FillMask(seed=self.seed).mask_and_predict(model, self.text)
        return ["".join(format_segment(segment)[0] for segment in result["segments"])]
