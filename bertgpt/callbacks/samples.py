"""What a model writes, or finds, while it is trained: samples.txt, for people who watch it learn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.hub.pretrained import Saved
from bertgpt.inference.fill_mask import Filler, marked
from bertgpt.inference.generate import Generator
from bertgpt.inference.sampling import Sampling
from bertgpt.trainer import Trainer
from bertgpt.utils.console import printable
from bertgpt.utils.files import void, write_aside

SHORTEST = 4  # ids of a text of which 15 % are one at least
HEAD = "======== step "


@dataclass(frozen=True)
class Samples:
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
        if trainer.group.leads:
            kept = Saved(trainer.model.eval(), self.tokenizer, self.objective, length=self.length)
            parts = [*self.told(kept), *self.found(kept)]
            before = self.until(trainer.step)
            entry = f"{HEAD}{trainer.step:,}\n\n" + "".join(f"{printable(part)}\n\n" for part in parts)
            write_aside(self.path, lambda aside: void(aside.write_text(before + entry, encoding="utf-8")))
        return None

    def until(self, step: int) -> str:
        """What was written of earlier steps; a run that goes on further back has written of later ones too."""
        if not self.path.exists():
            return ""
        entries = self.path.read_text(encoding="utf-8").split(HEAD)[1:]
        earlier = (entry for entry in entries if int(entry.partition("\n")[0].replace(",", "")) < step)
        return "".join(HEAD + entry for entry in earlier)

    def told(self, kept: Saved) -> list[str]:
        """Texts from nothing."""
        if self.objective == "masked":
            return []
        generator = Generator(Sampling(temperature=0.8), max_new_tokens=100, num_samples=3, seed=self.seed)
        return [sample["text"].replace(HEAD, "") for sample in generator(kept, [""])]

    def found(self, kept: Saved) -> list[str]:
        """A text in which some words were hidden, and what was made of them."""
        if self.objective == "causal" or len(self.tokenizer.encode(self.text.strip())) < SHORTEST:
            return []
        quiz = Filler(seed=self.seed).quiz(kept, self.text)
        return ["".join(marked(segment)[0] for segment in quiz["segments"]).replace(HEAD, "")]
