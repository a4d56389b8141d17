"""`bertgpt generate`: text from a GPT, filled gaps from a BERT."""

import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertgpt.config.options import GenerateOptions
from bertgpt.utils import console as console_module
from bertgpt.utils.console import Console, flush
from bertgpt.utils.errors import BertGPTError, short_repr
from bertgpt.utils.threads import stay_awake

if TYPE_CHECKING:
    from bertgpt.inference.generate import Sample
    from bertgpt.inference.language_model import LanguageModel

TENTHS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
COLOURS = ("red", "magenta", "yellow", "", "green")  # of probabilities in fifths


def run(options: GenerateOptions) -> dict[str, Any]:
    """Do it; on the command line texts are shown as they grow."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BertGPTError("BG223", "generate runs in one process", hint="leave out torchrun")
    if options.model is None:
        raise no_model()
    if not all(options.stop):
        raise BertGPTError("BG204", "--stop is a string that is not empty")
    stay_awake()
    from bertgpt.hub.pretrained import not_a_language_model
    from bertgpt.inference.language_model import load

    model = load(options.model, options.device, options.precision)
    if model.pretrained.head is not None:
        raise not_a_language_model(model.pretrained.head)
    if options.mask_text is not None:
        if options.prompt or options.prompts_file:
            raise BertGPTError("BG203", "--mask-text is a text of its own", hint="leave out the prompts")
        check_fills(model, options.model)
        return {"quiz": model.mask_and_predict(text_of(options.mask_text), options.candidates, options.seed)}
    prompts = prompts_of(options)
    check_size(model, options)
    masked = [model.mask in prompt for prompt in prompts]
    if any(masked) or not model.can_generate:
        check_fills(model, options.model)
        if not all(masked):
            raise no_mask(model, options.model)
        return {"samples": model.fill(prompts, options.candidates)}
    names = ("temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens", "num_samples", "stop", "seed")
    how = {name: getattr(options, name) for name in (*names, "truncate")}
    console = console_module.current
    live = None if console is None or console.json else Live(console, options.logprobs)
    samples = model.generate(prompts, watch=live, **how)
    if live is not None:
        live.end()
    return {"samples": samples}


# ---------------------------------------------------------------------------------------------- what is asked


def prompts_of(options: GenerateOptions) -> list[str]:
    """Prompts from options, from a file, or from what is piped into the command; else one that is empty."""
    prompts = list(options.prompt)
    if options.prompts_file is not None:
        lines = text_of_file(options.prompts_file).split("\n")
        prompts += [line.removesuffix("\r") for line in lines if line.strip()]
        if not prompts:
            raise BertGPTError("BG310", "there is no prompt in this file", path=options.prompts_file)
    if not prompts and console_module.current is not None and sys.stdin is not None and not sys.stdin.isatty():
        prompts = [piped().removesuffix("\n")]
    return prompts or [""]


def piped() -> str:
    """What somebody else writes into this command."""
    try:
        return decoded(sys.stdin.buffer.read(), "standard input")
    except OSError as error:
        raise BertGPTError("BG313", "standard input cannot be read", cause=str(error)) from None


def text_of(given: str) -> str:
    """A text, or that of a file."""
    if len(given.split()) == 1 and Path(given).suffix and not os.path.exists(given):  # noqa: PTH110 - as below
        raise BertGPTError("BG211", f"there is no file {short_repr(given)}, and this is too short for a text")
    return text_of_file(given) if os.path.isfile(given) else given  # noqa: PTH113 - a Path of an impossible name raises


def text_of_file(name: str) -> str:
    """The text of a file."""
    try:
        return decoded(Path(name).read_bytes(), name)
    except (OSError, ValueError) as error:
        raise BertGPTError("BG313", "this file cannot be read", path=name, cause=str(error)) from None


def decoded(data: bytes, where: str) -> str:
    """Bytes as text."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BertGPTError("BG301", "this text is not UTF-8", path=where, cause=f"byte {error.start:,}") from None


# ----------------------------------------------------------------------------------------- what cannot be asked


def no_model(command: str = "generate") -> BertGPTError:
    """Which models there are."""
    from bertgpt.inference.load import list_runs

    there = [f"bertgpt {command} --model {run}" for run in list_runs()]
    hint = "; or ".join(there) if there else "bertgpt pretrain makes one"
    return BertGPTError("BG203", "--model is missing", hint=hint)


def check_fills(model: "LanguageModel", name: str) -> None:
    """Gaps are for models that look both ways."""
    if not model.can_fill_mask:
        hint = f'bertgpt generate --model {name} --prompt "..." goes on with a text; a BERT or a hybrid fills gaps'
        raise BertGPTError("BG222", "this is a causal model: it goes on with text, and does not fill gaps", hint=hint)


def no_mask(model: "LanguageModel", name: str) -> BertGPTError:
    """A BERT needs something to fill."""
    kind = (
        "a hybrid either fills the gaps of all prompts or goes on with all"
        if model.can_generate
        else "this is a masked model: it fills gaps"
    )
    hint = f'bertgpt generate --model {name} --prompt "A text with a {model.mask} in it." or --mask-text TEXT'
    return BertGPTError("BG222", f"{kind}, and there is no {model.mask} in a prompt", hint=hint)


def check_size(model: "LanguageModel", options: GenerateOptions) -> None:
    """More choices than there are ids are all of them."""
    vocab = model.pretrained.model.config.vocab_size
    if options.top_k > vocab:
        console_module.note(f"--top-k {options.top_k:,} is more than there are: all {vocab:,} ids may be drawn")


# ---------------------------------------------------------------------------------------------------- on paper


class Live:
    """Samples on the screen while they grow: the first that is not over, and then what has grown behind it."""

    def __init__(self, console: Console, logprobs: bool) -> None:
        self.console, self.logprobs = console, logprobs
        self.number, self.begun, self.tokens = 0, False, 0
        self.start: float | None = None

    def __call__(self, samples: list["Sample"]) -> None:
        if self.start is None:
            self.start, self.first = time.monotonic(), sum(len(sample.tokens) for sample in samples)
        for sample in samples[self.number :]:
            if not self.begun:
                self.begin(sample, len(samples))
            for text, logprob in sample.flush():
                self.console.inline(*self.shaded(text, logprob) if self.logprobs else (text, ""))
            if not sample.finish_reason:
                break
            self.console.inline("\n", "")
            self.number, self.begun = self.number + 1, False
        self.tokens = sum(len(sample.tokens) for sample in samples)
        flush()

    def begin(self, sample: "Sample", count: int) -> None:
        """Its prompt, and a title where there are several."""
        self.begun = True
        if count > 1:
            if self.number:
                self.console.text()
            self.console.heading(f"{self.number + 1} of {count}")
        self.console.inline(sample.prompt, "bold")

    def shaded(self, text: str, logprob: float) -> tuple[str, str]:
        """A piece with its probability, in tenths behind it and as its colour."""
        odds = min(math.exp(logprob), 1 - 1e-9)
        body = text.rstrip("\n")
        return body + TENTHS[int(odds * 10)] + text[len(body) :], COLOURS[int(odds * 5)]

    def end(self) -> None:
        """How fast it was."""
        if self.logprobs:
            self.console.note(
                "the figure behind a piece is its probability in tenths: ⁰ is under 0.1, ⁹ is 0.9 and more"
            )
        made = self.tokens - self.first if self.start is not None else 0
        if made > 0 and self.start is not None:
            self.console.note(f"{self.tokens:,} tokens, {made / (time.monotonic() - self.start):,.0f} a second")


def show(result: dict[str, Any], console: Console) -> None:
    """Print filled gaps; texts that grew were shown then."""
    if "quiz" in result:
        show_quiz(result["quiz"], console)
    for number, sample in enumerate(result.get("samples", ())):
        if "masks" in sample:
            if number:
                console.text()
            console.text(sample["text"])
            rows = [
                [str(n), *(f"{each['text'].strip()} {each['probability']:.3f}" for each in mask["candidates"])]
                for n, mask in enumerate(sample["masks"], 1)
            ]
            best = len(sample["masks"][0]["candidates"])
            console.table(("gap", "likeliest", *[""] * (best - 1)), rows)


def show_quiz(quiz: dict[str, Any], console: Console) -> None:
    """A text with what was hidden of it, and what the model made of that."""
    from bertgpt.inference.fill_mask import format_segment

    console.inline_styled(map(format_segment, quiz["segments"]))
    right = sum(mask["correct"] for mask in quiz["masks"])
    console.text()
    console.text(
        f"{right} of {len(quiz['masks'])} hidden tokens found, {quiz['accuracy']:.1%}. "
        "{word}: hidden and found; {word: guess}: hidden, and taken for another"
    )
