"""Log-likelihoods of continuations: what every suite of choices is made of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.scoring import pseudo_logprobs, token_logprobs, token_nlls_and_greedy
from bertgpt.utils.errors import BertGPTError


@dataclass(frozen=True)
class LoglikelihoodResult:
    """What a model says of a continuation."""

    logprob: float  # of all its ids, in nats
    tokens: int
    greedy: bool  # whether every id is the likeliest where it stands


def encode_pair(kept: PretrainedModel, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Both in ids: encoded together, as they would be read, then taken apart; spaces between belong to the latter."""
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    before = kept.tokenizer.encode(bare)
    whole = kept.tokenizer.encode(bare + continuation)
    return before, whole[len(before) :]


def loglikelihood(kept: PretrainedModel, requests: Sequence[tuple[str, str]]) -> list[LoglikelihoodResult]:
    """One for each (context, continuation), from one end id on; what is too long loses the beginning of its context."""
    rows, sizes = [], []
    for context, continuation in requests:
        before, after = encode_pair(kept, context, continuation)
        row = [*kept.prepend_end(before), *after]
        if len(after) > kept.max_length:
            cause = f"{len(after):,} tokens, rows of {kept.max_length:,}"
            raise BertGPTError("BG204", "a continuation is longer than the model's context", cause=cause)
        rows.append(row[-(kept.max_length + 1) :])
        sizes.append(len(after))
    found = []
    for size, (costs, likeliest) in zip(sizes, token_nlls_and_greedy(kept.model, rows), strict=True):
        logprob = -math.fsum(costs[len(costs) - size :])
        found.append(LoglikelihoodResult(check_nan(logprob), size, all(likeliest[len(likeliest) - size :])))
    return found


def loglikelihood_rolling(kept: PretrainedModel, texts: Sequence[str]) -> list[LoglikelihoodResult]:
    """Of whole texts: log-likelihoods, or the pseudo-log-likelihoods of a model that only fills gaps."""
    rows = [kept.tokenizer.encode(text) for text in texts]
    found = pseudo_logprobs(kept, rows) if kept.objective == "mlm" else token_logprobs(kept, rows)
    return [LoglikelihoodResult(check_nan(math.fsum(each)), len(each), False) for each in found]


def check_nan(logprob: float) -> float:
    """A sum that is a number."""
    if math.isnan(logprob):
        raise BertGPTError("BG321", "the model's answer is not a number")
    return logprob
