"""Log-likelihood requests, as lm-evaluation-harness defines them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.scoring import pseudo_logprobs, token_logprobs, token_nlls_and_greedy
from bertgpt.utils.errors import BertGPTError, short_repr


@dataclass(frozen=True)
class LoglikelihoodResult:
    """Log-likelihood of a continuation."""

    logprob: float  # sum over its tokens, in nats
    tokens: int
    greedy: bool  # whether greedy decoding would give exactly this continuation


def encode_pair(pretrained: PretrainedModel, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Encode context and continuation together, then split; spaces at the end of the context go to the continuation."""
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    context_ids = pretrained.tokenizer.encode(stripped)
    ids = pretrained.tokenizer.encode(stripped + continuation)
    return context_ids, ids[len(context_ids) :]


def loglikelihood(pretrained: PretrainedModel, requests: Sequence[tuple[str, str]]) -> list[LoglikelihoodResult]:
    """Log-likelihood of each continuation given its context, for requests (context, continuation).

    The model's prefix token is prepended; an empty context is an end token. Contexts are truncated from the left to
    fit the model.
    """
    rows, lengths = [], []
    for context, continuation in requests:
        context_ids, continuation_ids = encode_pair(pretrained, context, continuation)
        if not continuation_ids:  # its log-likelihood would be 0, the best there is
            cause = f"{short_repr(continuation)} after {short_repr(context[-40:])}"
            raise BertGPTError("BG310", "a continuation has no tokens", cause=cause)
        if len(continuation_ids) > pretrained.max_length:
            cause = f"{len(continuation_ids):,} tokens, at most {pretrained.max_length:,} fit"
            raise BertGPTError("BG204", "a continuation is longer than the model's context", cause=cause)
        row = [*pretrained.prepend_prefix(context_ids), *continuation_ids]
        rows.append(row[-(pretrained.max_length + 1) :])
        lengths.append(len(continuation_ids))
    results = []
    for length, (nlls, is_greedy) in zip(lengths, token_nlls_and_greedy(pretrained.model, rows), strict=True):
        logprob = -math.fsum(nlls[len(nlls) - length :])
        results.append(LoglikelihoodResult(logprob, length, all(is_greedy[len(is_greedy) - length :])))
    return results


def loglikelihood_rolling(pretrained: PretrainedModel, texts: Sequence[str]) -> list[LoglikelihoodResult]:
    """Log-likelihood of whole texts; for a masked language model, the pseudo-log-likelihood. `greedy` is False."""
    rows = [pretrained.tokenizer.encode(text) for text in texts]
    method = pseudo_logprobs if pretrained.objective == "mlm" else token_logprobs
    return [LoglikelihoodResult(math.fsum(row), len(row), False) for row in method(pretrained, rows)]
