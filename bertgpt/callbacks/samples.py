"""What a model writes, or finds, while it is trained: samples.txt, for people who watch it learn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.fill_mask import FillMask, format_segment
from bertgpt.inference.generate import Generator
from bertgpt.inference.sampling import SamplingParams
from bertgpt.trainer import Trainer
from bertgpt.utils.console import printable
from bertgpt.utils.files import discard_result, write_atomic

SHORTEST = 4  # ids of a text of which 15 % are one at least
HEAD = "======== step "


@dataclass(frozen=True)
class SampleCallback:
    """A hook that writes a file, and no line of the journal: the same text for the same step, however often."""

    path: Path
    every: int
    tokenizer: Tokenizer
    objective: str
    length: int  # of rows
    text: str  # held-out, to hide words of
    seed: int
    name: str = "samples"

    def __call__(self, trainer: Trainer) -> dict[str, Any] | None:
        """Write what the model has to say now."""
        if trainer.dist.is_main:
            kept = PretrainedModel(trainer.model.eval(), self.tokenizer, self.objective, length=self.length)
            parts = [*self.generate(kept), *self.fill_masks(kept)]
            before = self.entries_before(trainer.step)
            entry = f"{HEAD}{trainer.step:,}\n\n" + "".join(f"{printable(part)}\n\n" for part in parts)
            write_atomic(self.path, lambda aside: discard_result(aside.write_text(before + entry, encoding="utf-8")))
        return None

    def entries_before(self, step: int) -> str:
        """What was written of earlier steps; a run that goes on further back has written of later ones too."""
        if not self.path.exists():
            return ""
        entries = self.path.read_text(encoding="utf-8").split(HEAD)[1:]
        earlier = (entry for entry in entries if int(entry.partition("\n")[0].replace(",", "")) < step)
        return "".join(HEAD + entry for entry in earlier)

    def generate(self, kept: PretrainedModel) -> list[str]:
        """Texts from nothing."""
        if self.objective == "mlm":
            return []
        generator = Generator(SamplingParams(temperature=0.8), max_new_tokens=100, num_samples=3, seed=self.seed)
        return [sample["text"].replace(HEAD, "") for sample in generator(kept, [""])]

    def fill_masks(self, kept: PretrainedModel) -> list[str]:
        """A text in which some words were hidden, and what was made of them."""
        if self.objective == "clm" or len(self.tokenizer.encode(self.text.strip())) < SHORTEST:
            return []
        quiz = FillMask(seed=self.seed).mask_and_predict(kept, self.text)
        return ["".join(format_segment(segment)[0] for segment in quiz["segments"]).replace(HEAD, "")]
