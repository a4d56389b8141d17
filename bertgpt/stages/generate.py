"""`bertgpt generate`: text from a GPT, filled masks from a BERT, both from a hybrid."""

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
from bertgpt.utils.threads import set_openmp_spin_count

if TYPE_CHECKING:
    from bertgpt.inference.generate import Sample
    from bertgpt.inference.language_model import LanguageModel

SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"  # tenths of a probability
COLORS = ("red", "magenta", "yellow", "", "green")  # of fifths of a probability


def run(options: GenerateOptions) -> dict[str, Any]:
    """Generate or fill masks; returns `samples`, or `masked_prediction` for --mask-text.

    On the command line generated text is shown while it grows.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BertGPTError("BG223", "generate runs in one process", hint="run it without torchrun")
    if options.model is None:
        from bertgpt.inference.load import missing_model_error

        raise missing_model_error()
    if not all(options.stop):
        raise BertGPTError("BG204", "--stop must not be empty")
    set_openmp_spin_count()  # before torch is imported
    from bertgpt.inference.language_model import load

    model = load(options.model, options.device, options.precision, options.prefix_token)
    model.require_language_model()
    if options.mask_text is not None:
        if options.prompt or options.prompts_file:
            raise BertGPTError("BG203", "--mask-text and prompts are mutually exclusive", hint="leave out the prompts")
        require_mask_filling(model, options.model)
        text = read_text_argument(options.mask_text)
        if model.mask_token in text:
            hint = f"to fill the {model.mask_token} of a text: --prompt TEXT"
            raise BertGPTError(
                "BG222", f"--mask-text chooses the masks itself; its text has {model.mask_token}", hint=hint
            )
        return {"masked_prediction": model.mask_and_predict(text, options.candidates, options.seed)}
    prompts = read_prompts(options)
    warn_top_k(model, options)
    has_mask = [model.mask_token in prompt for prompt in prompts]
    if any(has_mask) or not model.can_generate:
        require_mask_filling(model, options.model)
        if not all(has_mask):
            raise missing_mask_error(model, options.model)
        return {"samples": model.fill_mask(prompts, options.candidates)}
    prefix_token = model.pretrained.prefix_token
    if prefix_token == "none":
        console_module.info("no end token before the prompt: --prefix-token none")
    return {"samples": generate(model, prompts, options), "prefix_token": prefix_token}


def generate(model: "LanguageModel", prompts: list[str], options: GenerateOptions) -> list[dict[str, Any]]:
    """Generate from all prompts, live on the command line unless it prints JSON."""
    from bertgpt.inference.generate import GenerationOptions

    generation = {name: getattr(options, name) for name in GenerationOptions.__annotations__}
    console = console_module.current
    if console is None or console.json:
        return model.generate(prompts, **generation)
    display = LiveDisplay(console, options.logprobs)
    samples: list[Sample] = []
    for samples in model.stream(prompts, **generation):
        display.update(samples)
    display.end()
    return [sample.as_json() for sample in samples]


# ---------------------------------------------------------------------------------------------- input


def read_prompts(options: GenerateOptions) -> list[str]:
    """Prompts from the options and from a file, else from a pipe, else an empty one."""
    prompts = list(options.prompt)
    if options.prompts_file is not None:
        lines = read_text_file(options.prompts_file).split("\n")
        prompts += [line.removesuffix("\r") for line in lines if line.strip()]
        if not prompts:
            raise BertGPTError("BG310", "no prompt in this file", path=options.prompts_file)
    if not prompts and console_module.current is not None and sys.stdin is not None and not sys.stdin.isatty():
        prompts = [read_stdin().removesuffix("\n")]
    return prompts or [""]


def read_stdin() -> str:
    """The text that is piped into the command."""
    try:
        return decode_utf8(sys.stdin.buffer.read(), "standard input")
    except OSError as error:
        raise BertGPTError("BG313", "standard input cannot be read", cause=str(error)) from None


def read_text_argument(value: str) -> str:
    """A text that is given as such, or as the name of its file."""
    if len(value.split()) == 1 and Path(value).suffix and not os.path.exists(value):  # noqa: PTH110 - as below
        raise BertGPTError("BG211", f"no such file: {short_repr(value)}, and too short for a text")
    return read_text_file(value) if os.path.isfile(value) else value  # noqa: PTH113 - Path raises on impossible names


def read_text_file(name: str) -> str:
    """The text of a UTF-8 file."""
    try:
        return decode_utf8(Path(name).read_bytes(), name)
    except (OSError, ValueError) as error:
        raise BertGPTError("BG313", "file cannot be read", path=name, cause=str(error)) from None


def decode_utf8(data: bytes, source: str) -> str:
    """Decode UTF-8, with or without a byte order mark; `source` names the bytes in the error."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BertGPTError("BG301", "text is not UTF-8", path=source, cause=f"byte {error.start:,}") from None


# ----------------------------------------------------------------------------------------- errors and notes


def require_mask_filling(model: "LanguageModel", name: str) -> None:
    """Refuse mask filling with a causal model."""
    if not model.can_fill_mask:
        hint = f'generate: bertgpt generate --model {name} --prompt "..."; to fill masks, use a BERT or a hybrid'
        raise BertGPTError("BG222", "causal model: mask filling is not supported", hint=hint)


def missing_mask_error(model: "LanguageModel", name: str) -> BertGPTError:
    """The error of prompts without a mask, where masks are to be filled."""
    token = model.mask_token
    message = (
        f"a hybrid either fills masks or generates: some prompts have no {token}"
        if model.can_generate
        else f"masked language model: generation is not supported, and a prompt has no {token}"
    )
    hint = f'bertgpt generate --model {name} --prompt "A text with a {token} in it." or --mask-text TEXT'
    return BertGPTError("BG222", message, hint=hint)


def warn_top_k(model: "LanguageModel", options: GenerateOptions) -> None:
    """Note a --top-k larger than the vocabulary."""
    vocab_size = model.pretrained.model.config.vocab_size
    if options.top_k > vocab_size:
        console_module.info(f"--top-k {options.top_k:,} exceeds the vocabulary: sampling from all {vocab_size:,} ids")


# ---------------------------------------------------------------------------------------------------- output


class LiveDisplay:
    """Shows samples while they grow, in order: the first unfinished one, then what has grown after it meanwhile."""

    def __init__(self, console: Console, logprobs: bool) -> None:
        self.console, self.logprobs = console, logprobs
        self.current, self.has_header = 0, False  # the sample that is shown, and whether its prompt is
        self.num_tokens = self.num_first = 0  # of all samples, now and after the first step
        self.start: float | None = None  # time of the first step

    def update(self, samples: list["Sample"]) -> None:
        """Show what has grown since the last update."""
        self.num_tokens = sum(len(sample.tokens) for sample in samples)
        if self.start is None:
            self.start, self.num_first = time.monotonic(), self.num_tokens
        for sample in samples[self.current :]:
            if not self.has_header:
                self.show_prompt(sample, len(samples))
            for text, logprob in sample.flush():
                self.console.inline(*self.with_probability(text, logprob) if self.logprobs else (text, ""))
            if not sample.finish_reason:
                break
            self.console.inline("\n", "")
            self.current, self.has_header = self.current + 1, False
        flush()

    def show_prompt(self, sample: "Sample", count: int) -> None:
        """Show the prompt of a sample, with a heading if there are several samples."""
        self.has_header = True
        if count > 1:
            if self.current:
                self.console.text()
            self.console.heading(f"{self.current + 1} of {count}")
        self.console.inline(sample.prompt, "bold")

    def with_probability(self, text: str, logprob: float) -> tuple[str, str]:
        """A piece of text with its probability, in tenths after it, and as a color."""
        prob = min(math.exp(logprob), 1 - 1e-9)
        body = text.rstrip("\n")
        return body + SUPERSCRIPTS[int(prob * 10)] + text[len(body) :], COLORS[int(prob * 5)]

    def end(self) -> None:
        """Print a legend, and the speed after the first step, which includes reading the prompts."""
        if self.logprobs:
            self.console.info("digits are probabilities in tenths: ⁰ is below 0.1, ⁹ is 0.9 or more")
        num_timed = self.num_tokens - self.num_first
        if num_timed > 0 and self.start is not None:
            speed = num_timed / (time.monotonic() - self.start)
            self.console.info(f"{self.num_tokens:,} tokens, {speed:,.0f} tokens/s")


def show(result: dict[str, Any], console: Console) -> None:
    """Print filled masks and masked predictions; generated text was shown while it grew."""
    if "masked_prediction" in result:
        show_masked_prediction(result["masked_prediction"], console)
    for number, sample in enumerate(result.get("samples", ())):
        if "masks" in sample:
            if number:
                console.text()
            console.text(sample["text"])
            rows = [
                [str(n), *(f"{each['token_str'].strip()} {each['score']:.3f}" for each in mask["candidates"])]
                for n, mask in enumerate(sample["masks"], 1)
            ]
            num_candidates = len(sample["masks"][0]["candidates"])
            console.table(("mask", "most likely", *[""] * (num_candidates - 1)), rows)


def show_masked_prediction(result: dict[str, Any], console: Console) -> None:
    """Print a text with its masked words and their predictions, and the masked accuracy."""
    from bertgpt.inference.fill_mask import format_segment

    console.inline_styled(map(format_segment, result["segments"]))
    num_correct = sum(mask["correct"] for mask in result["masks"])
    console.text()
    console.text(
        f"{num_correct} of {len(result['masks'])} masked tokens predicted correctly, {result['accuracy']:.1%}. "
        "{word}: predicted correctly; {word: prediction}: predicted wrongly"
    )
