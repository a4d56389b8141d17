"""Text generation with a causal model: prompts in, samples with the log-probability of each token out.

Which token is drawn is a function of the seed, the prompt, the number of the sample and the position in it, so a text
is the same whatever else is generated in its batch.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from bertgpt.config.presets import ModelConfig
from bertgpt.data.tokenizers.detokenize import IncrementalDetokenizer, encode_checked
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.decoder import Decoder
from bertgpt.inference.sampling import SamplingParams
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.rng import GOLDEN, splitmix64, uniform

MAX_ROWS, CACHE_BYTES = 64, 1 << 30  # of a batch, at most


@dataclass
class Sample:
    """A text that is being generated."""

    prompt: str
    prompt_ids: list[int]
    detokenizer: IncrementalDetokenizer
    stop: Sequence[str] = ()
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""  # without the prompt
    finish_reason: str = ""  # eos, stop or length; empty while it grows
    num_flushed: int = 0  # characters of the text
    unflushed: list[tuple[str, float]] = field(default_factory=list)  # pieces of text with their log-probabilities
    pending_logprob: float = 0.0  # of tokens that do not make a whole character yet

    def add(self, token: int, logprob: float, is_eos: bool, is_last: bool) -> None:
        """Append a token; sets `finish_reason` if the text ends with it."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        old_length = len(self.text)
        self.append_text("" if is_eos else self.detokenizer.add(token), logprob)
        search_start = max(0, old_length - max(map(len, self.stop), default=0))
        stops = [index for index in (self.text.find(stop, search_start) for stop in self.stop) if index >= 0]
        if stops:
            self.text, self.finish_reason = self.text[: min(stops)], "stop"
        elif is_eos or is_last:
            self.append_text(self.detokenizer.flush(), 0.0)
            self.finish_reason = "eos" if is_eos else "length"

    def append_text(self, text: str, logprob: float) -> None:
        """Append the text of some tokens; it is empty while they do not make a whole character."""
        self.pending_logprob += logprob
        if text:
            self.unflushed.append((text, self.pending_logprob))
            self.text, self.pending_logprob = self.text + text, 0.0

    def flush(self) -> Iterator[tuple[str, float]]:
        """Yield new pieces of the text for display; what may turn out to begin a stop string is held back."""
        end = len(self.text)
        if not self.finish_reason:
            overlaps = (n for stop in self.stop for n in range(1, len(stop)) if self.text.endswith(stop[:n]))
            end -= max(overlaps, default=0)
        while self.unflushed and (self.finish_reason or self.num_flushed + len(self.unflushed[0][0]) <= end):
            text, logprob = self.unflushed.pop(0)
            text = text[: end - self.num_flushed]
            self.num_flushed += len(text)
            if text:
                yield text, logprob

    def as_json(self) -> dict[str, Any]:
        """The sample as `--json` prints it."""
        return {
            "prompt": self.prompt, "text": self.text, "tokens": self.tokens, "logprobs": self.logprobs,
            "finish_reason": self.finish_reason,
        }  # fmt: skip


class GenerationOptions(TypedDict, total=False):
    """Options of generation, as on the command line."""

    temperature: float  # default 0.8; 0: greedy
    top_k: int
    top_p: float
    repetition_penalty: float
    max_new_tokens: int
    num_samples: int  # for each prompt
    stop: str | Sequence[str]  # strings that end a text and are not part of it
    seed: int
    truncate: bool  # truncate long prompts on the left instead of refusing them


@dataclass(frozen=True)
class Generator:
    """Generates text. Options out of range raise BertGPTError."""

    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_new_tokens: int = 200
    num_samples: int = 1
    stop: Sequence[str] = ()
    seed: int = 1337
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0 or self.num_samples < 1:
            raise BertGPTError("BG204", "max_new_tokens must be 0 or more, and num_samples 1 or more")
        if isinstance(self.stop, str) or not all(isinstance(stop, str) and stop for stop in self.stop):
            raise BertGPTError("BG204", "stop must be a list of non-empty strings")

    @classmethod
    def from_options(cls, **options: Unpack[GenerationOptions]) -> "Generator":
        """A generator with these options; an unknown one is a BertGPTError."""
        known = GenerationOptions.__annotations__
        if unknown := sorted(options.keys() - known):
            raise BertGPTError("BG208", f"no such option: {unknown[0]}", hint=f"options: {', '.join(known)}")
        given: dict[str, Any] = {"temperature": 0.8, **options}
        if isinstance(given.get("stop"), str):
            given["stop"] = [given["stop"]]
        sampling = {each.name: given.pop(each.name) for each in fields(SamplingParams) if each.name in given}
        return cls(SamplingParams(**sampling), **given)

    def __call__(self, pretrained: PretrainedModel, prompts: Sequence[str]) -> list[dict[str, Any]]:
        """Generate `num_samples` texts for each prompt: `prompt`, `text`, `tokens`, `logprobs`, `finish_reason`."""
        samples = self.start(pretrained, prompts)
        progress = console.Progress("generating", self.max_new_tokens * len(samples), in_bytes=False)
        for done in self.decode(pretrained, samples):
            progress.update(done)
        progress.end()
        return [sample.as_json() for sample in samples]

    def start(self, pretrained: PretrainedModel, prompts: Sequence[str]) -> list[Sample]:
        """The samples of all prompts, for `decode` to grow."""
        return [sample for prompt in prompts for sample in self.encode_prompt(pretrained, prompt)]

    def decode(self, pretrained: PretrainedModel, samples: list[Sample]) -> Iterator[int]:
        """Grow samples in place until all are finished; yields after each step how many tokens are done, at most."""
        pretrained.model.eval()
        keys = sample_keys(samples)
        batch_size = max_batch_size(pretrained.model.config, pretrained.max_length)
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            for step in self.decode_batch(pretrained, batch, keys[start : start + batch_size]):
                yield self.max_new_tokens * start + len(batch) * step

    def encode_prompt(self, pretrained: PretrainedModel, prompt: str) -> list[Sample]:
        """The samples of a prompt, which is truncated on the left if it is longer than the context."""
        tokenizer, max_length = pretrained.tokenizer, pretrained.max_length
        ids = pretrained.prepend_prefix(encode_checked(tokenizer, prompt))
        if len(ids) > max_length:
            cause = f"{len(ids):,} tokens with the prefix token, context {max_length:,}"
            if not self.truncate:
                raise BertGPTError("BG204", "the prompt is longer than the model's context", cause=cause)
            console.info(f"the prompt is longer than the model's context ({cause}): truncated on the left")
            ids = ids[-max_length:]
        finish_reason = "" if self.max_new_tokens else "length"
        return [
            Sample(prompt, ids, IncrementalDetokenizer(tokenizer, bool(prompt)), self.stop, finish_reason=finish_reason)
            for _ in range(self.num_samples)
        ]

    def decode_batch(
        self, pretrained: PretrainedModel, samples: list[Sample], keys: NDArray[np.uint64]
    ) -> Iterator[int]:
        """Grow one batch of samples until all are finished; yields the number of each step."""
        if not self.max_new_tokens:
            yield 0
            return
        eos_id = pretrained.tokenizer.eos_id
        prompts = [sample.prompt_ids for sample in samples]
        decoder = Decoder(pretrained.model, prompts, pretrained.max_length, self.max_new_tokens)
        logits = decoder.prefill()
        suppressed = torch.tensor(pretrained.suppressed_ids(allowed=[eos_id]), dtype=torch.long, device=logits.device)
        seen = seen_tokens(decoder.rows, logits) if self.sampling.repetition_penalty != 1 else None
        for step in range(1, self.max_new_tokens + 1):
            draws = uniform(self.seed, keys, 1, first=step)[:, 0]
            logprobs = logits.log_softmax(dim=1)
            ids = self.sampling.sample(logits.index_fill(1, suppressed, -torch.inf), seen, draws)  # (B,)
            logprobs = logprobs.gather(1, ids[:, None])[:, 0]
            for sample, i, logprob in zip(samples, ids.tolist(), logprobs.tolist(), strict=True):
                if not sample.finish_reason:
                    sample.add(i, logprob, i == eos_id, step == self.max_new_tokens)
            yield step
            active = [index for index, sample in enumerate(samples) if not sample.finish_reason]
            if not active:
                return
            if 2 * len(active) <= len(samples):  # not more often: dropping the finished rows copies the whole cache
                samples, keys, ids = [samples[index] for index in active], keys[active], ids[active]
                seen = None if seen is None else seen[active]
                decoder.select_rows(active)
            if seen is not None:
                seen.scatter_(1, ids[:, None], True)
            logits = decoder.step(ids)


def sample_keys(samples: Sequence[Sample]) -> NDArray[np.uint64]:
    """The random key of each sample, from its prompt and its number among the samples of that prompt."""
    counts = Counter[str]()
    keys = []
    for sample in samples:
        digest = blake2b(sample.prompt.encode(), digest_size=8).digest()
        keys.append((int.from_bytes(digest, "little") + counts[sample.prompt] * GOLDEN) % (1 << 64))
        counts[sample.prompt] += 1
    return splitmix64(np.array(keys, np.uint64))


def max_batch_size(config: ModelConfig, window: int) -> int:
    """How many rows are decoded together: as many as the memory for the KV cache allows."""
    return max(1, min(MAX_ROWS, CACHE_BYTES // (8 * config.layers * config.dim * window)))


def seen_tokens(rows: Sequence[Sequence[int]], logits: torch.Tensor) -> torch.Tensor:
    """Which ids occur in each row, (B, V), for the repetition penalty."""
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for row, ids in zip(seen, rows, strict=True):
        row[torch.tensor(ids, device=seen.device)] = True
    return seen
