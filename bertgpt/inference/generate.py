"""Text from a model that looks back: prompts in, samples out, each token with its probability.

Which token is drawn is a function of the seed, the prompt, the number of the sample and the place in it, so a text is
the same whatever else is generated beside it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

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

MAX_ROWS, CACHE_BYTES = 64, 1 << 30  # of rows that grow together, at most


@dataclass
class Sample:
    """A text that grows."""

    prompt: str
    ids: list[int]  # that it begins with
    speller: IncrementalDetokenizer
    stop: Sequence[str] = ()
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    finish_reason: str = ""  # why: end, stop or length
    flushed: int = 0  # characters of the text
    pieces: list[tuple[str, float]] = field(default_factory=list)  # that are not shown yet
    pending_logprob: float = 0.0  # the log-probability of tokens that are no whole character yet

    def add(self, token: int, logprob: float, is_end: bool, is_last: bool) -> None:
        """One more token."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        before = len(self.text)
        self.append_text("" if is_end else self.speller.add(token), logprob)
        reach = max(0, before - max(map(len, self.stop), default=0))
        stops = [place for place in (self.text.find(stop, reach) for stop in self.stop) if place >= 0]
        if stops:
            self.text, self.finish_reason = self.text[: min(stops)], "stop"
        elif is_end or is_last:
            self.append_text(self.speller.end(), 0.0)
            self.finish_reason = "end" if is_end else "length"

    def append_text(self, text: str, logprob: float) -> None:
        """Some more text, if these tokens finish any."""
        self.pending_logprob += logprob
        if text:
            self.pieces.append((text, self.pending_logprob))
            self.text, self.pending_logprob = self.text + text, 0.0

    def flush(self) -> Iterator[tuple[str, float]]:
        """Pieces that were not shown yet and can be: those that will not turn out to begin what ends the text."""
        until = len(self.text)
        if not self.finish_reason:
            begun = (n for stop in self.stop for n in range(1, len(stop)) if self.text.endswith(stop[:n]))
            until -= max(begun, default=0)
        while self.pieces and (self.finish_reason or self.flushed + len(self.pieces[0][0]) <= until):
            text, logprob = self.pieces.pop(0)
            text = text[: until - self.flushed]
            self.flushed += len(text)
            if text:
                yield text, logprob

    def as_json(self) -> dict[str, Any]:
        """What `--json` shows of it."""
        found = {"prompt": self.prompt, "text": self.text, "tokens": self.tokens, "logprobs": self.logprobs}
        return found | {"ended": self.finish_reason}


StreamCallback = Callable[[list[Sample]], None]  # is called whenever they have grown


@dataclass(frozen=True)
class Generator:
    """How texts go on."""

    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_new_tokens: int = 200
    num_samples: int = 1
    stop: Sequence[str] = ()
    seed: int = 1337
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0 or self.num_samples < 1:
            raise BertGPTError("BG204", "max_new_tokens is 0 or more, and num_samples 1 or more")
        if isinstance(self.stop, str) or not all(self.stop):
            raise BertGPTError("BG204", "stop is a list of strings, none of them empty")

    def __call__(
        self, kept: PretrainedModel, prompts: Sequence[str], watch: StreamCallback | None = None
    ) -> list[dict[str, Any]]:
        """Every prompt gone on with, so many times."""
        kept.model.eval()
        rows = [row for prompt in prompts for row in self.encode_prompt(kept, prompt)]
        keys = sample_keys(rows)
        several = max_batch_size(kept.model.config, kept.max_length)
        progress = console.Progress("generating", self.max_new_tokens * len(rows), of_bytes=False)
        for start in range(0, len(rows), several):
            stop = start + several
            for step in self.decode_batch(kept, rows[start:stop], keys[start:stop]):
                if watch is not None:
                    watch(rows)
                else:
                    progress.update(self.max_new_tokens * start + len(rows[start:stop]) * step)
        progress.end()
        return [row.as_json() for row in rows]

    def encode_prompt(self, kept: PretrainedModel, prompt: str) -> list[Sample]:
        """The samples of a prompt, which is cut from the left where it is too long."""
        ids = kept.prepend_end(encode_checked(kept.tokenizer, prompt))
        if len(ids) > kept.max_length:
            cause = f"{len(ids) - 1:,} tokens behind an end, rows of {kept.max_length:,}"
            if not self.truncate:
                raise BertGPTError("BG204", "the prompt is longer than the model's context", cause=cause)
            console.note(f"the prompt is longer than the model's context ({cause}): its beginning is not read")
            ids = ids[-kept.max_length :]
        ended = "" if self.max_new_tokens else "length"
        samples = range(self.num_samples)
        return [
            Sample(prompt, ids, IncrementalDetokenizer(kept.tokenizer, bool(prompt)), self.stop, finish_reason=ended)
            for _ in samples
        ]

    def decode_batch(self, kept: PretrainedModel, rows: list[Sample], keys: NDArray[np.uint64]) -> Iterator[int]:
        """Rows that are computed together, until all have ended; gives the number of each step."""
        if not self.max_new_tokens:
            yield 0
            return
        decoder, left = Decoder(kept.model, [row.ids for row in rows], kept.max_length, self.max_new_tokens), rows
        logits = decoder.prefill()
        unsaid = torch.tensor(kept.suppressed_ids(but=[kept.tokenizer.eos_id]), dtype=torch.long, device=logits.device)
        seen = seen_tokens(decoder.rows, logits) if self.sampling.repetition_penalty != 1 else None
        for step in range(1, self.max_new_tokens + 1):
            draws = uniform(self.seed, keys, 1, first=step)[:, 0]
            chances = logits.log_softmax(dim=1)
            ids = self.sampling.sample(logits.index_fill(1, unsaid, -torch.inf), seen, draws)  # (B,)
            chances = chances.gather(1, ids[:, None])[:, 0]
            for row, i, chance in zip(left, ids.tolist(), chances.tolist(), strict=True):
                if not row.finish_reason:
                    row.add(i, chance, i == kept.tokenizer.eos_id, step == self.max_new_tokens)
            yield step
            going = [number for number, row in enumerate(left) if not row.finish_reason]
            if not going:
                return
            if 2 * len(going) <= len(left):  # the others are dropped now and then only, as all that is kept is copied
                left, keys, ids = [left[number] for number in going], keys[going], ids[going]
                seen = None if seen is None else seen[going]
                decoder.select_rows(going)
            if seen is not None:
                seen.scatter_(1, ids[:, None], True)
            logits = decoder.step(ids)


def sample_keys(rows: Sequence[Sample]) -> NDArray[np.uint64]:
    """What the draws of each row depend on beside the seed: its prompt, and which sample of that it is."""
    times = Counter[str]()
    keys = []
    for row in rows:
        digest = blake2b(row.prompt.encode(), digest_size=8).digest()
        keys.append((int.from_bytes(digest, "little") + times[row.prompt] * GOLDEN) % (1 << 64))
        times[row.prompt] += 1
    return splitmix64(np.array(keys, np.uint64))


def max_batch_size(config: ModelConfig, window: int) -> int:
    """How many rows grow together."""
    return max(1, min(MAX_ROWS, CACHE_BYTES // (8 * config.layers * config.dim * window)))


def seen_tokens(rows: Sequence[Sequence[int]], logits: torch.Tensor) -> torch.Tensor:
    """Which ids stand in each row, (B, V)."""
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for row, ids in zip(seen, rows, strict=True):
        row[torch.tensor(ids, device=seen.device)] = True
    return seen
