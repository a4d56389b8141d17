"""Log-likelihoods of continuations: what every suite of choices is made of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bertgpt.hub.pretrained import Saved
from bertgpt.inference.scoring import greedy_surprises, onward, pseudo
from bertgpt.utils.errors import BertGPTError


@dataclass(frozen=True)
class Answer:
    """What a model says of a continuation."""

    logprob: float  # of all its ids, in nats
    tokens: int
    greedy: bool  # whether every id is the likeliest where it stands


def split(kept: Saved, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Both in ids: encoded together, as they would be read, then taken apart; spaces between belong to the latter."""
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    before = kept.tokenizer.encode(bare)
    whole = kept.tokenizer.encode(bare + continuation)
    return before, whole[len(before) :]


def answers(kept: Saved, requests: Sequence[tuple[str, str]]) -> list[Answer]:
    """One for each (context, continuation), from one end id on; what is too long loses the beginning of its context."""
    rows, sizes = [], []
    for context, continuation in requests:
        before, after = split(kept, context, continuation)
        row = [*kept.opened(before), *after]
        if len(after) > kept.window:
            cause = f"{len(after):,} tokens, rows of {kept.window:,}"
            raise BertGPTError("BG204", "a continuation is longer than the model's context", cause=cause)
        rows.append(row[-(kept.window + 1) :])
        sizes.append(len(after))
    found = []
    for size, (costs, likeliest) in zip(sizes, greedy_surprises(kept.model, rows), strict=True):
        logprob = -math.fsum(costs[len(costs) - size :])
        found.append(Answer(checked(logprob), size, all(likeliest[len(likeliest) - size :])))
    return found


def sentences(kept: Saved, texts: Sequence[str]) -> list[Answer]:
    """Of whole texts: log-likelihoods, or the pseudo-log-likelihoods of a model that only fills gaps."""
    rows = [kept.tokenizer.encode(text) for text in texts]
    found = pseudo(kept, rows) if kept.objective == "masked" else onward(kept, rows)
    return [Answer(checked(math.fsum(each)), len(each), False) for each in found]


def checked(logprob: float) -> float:
    """A sum that is a number."""
    if math.isnan(logprob):
        raise BertGPTError("BG321", "the model's answer is not a number")
    return logprob
