"""Log-likelihoods of texts: autoregressive, or pseudo-log-likelihoods of a masked language model."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bertgpt.data.tokenizers.detokenize import encode_checked
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference import batching
from bertgpt.inference.batching import batches_by_length, pad, padding_document_ids
from bertgpt.model import Transformer
from bertgpt.training.objectives import lm_loss
from bertgpt.utils.errors import BertGPTError


@dataclass(frozen=True)
class SequenceScore:
    """The log-likelihood of a text, token by token."""

    tokens: list[int]
    logprobs: list[float]  # of each token, in nats
    bytes: int  # length of the text in UTF-8
    bits_per_byte: float | None  # None for an empty text, a masked model, or a tokenizer that does not preserve text

    @property
    def logprob(self) -> float:
        """The log-probability of the whole text, in nats."""
        return math.fsum(self.logprobs)


def score_texts(pretrained: PretrainedModel, texts: Sequence[str], stride: int | None = None) -> list[SequenceScore]:
    """Score texts: log-likelihoods of a causal model or hybrid, pseudo-log-likelihoods of a masked language model.

    `stride` is that of `token_logprobs`. A text too long for a masked model is a BertGPTError.
    """
    tokenizer, is_mlm = pretrained.tokenizer, pretrained.objective == "mlm"
    rows = [encode_checked(tokenizer, text) for text in texts]
    logprobs_by_row = pseudo_logprobs(pretrained, rows) if is_mlm else token_logprobs(pretrained, rows, stride)
    is_exact = tokenizer.token_bytes is not None and not is_mlm
    scores = []
    for text, ids, logprobs in zip(texts, rows, logprobs_by_row, strict=True):
        size = len(text.encode())
        bits_per_byte = -math.fsum(logprobs) / math.log(2) / size if is_exact and size else None
        scores.append(SequenceScore(ids, logprobs, size, bits_per_byte))
    return scores


# ------------------------------------------------------------------------------------- autoregressive


def token_logprobs(
    pretrained: PretrainedModel, rows: Sequence[Sequence[int]], stride: int | None = None
) -> list[list[float]]:
    """The log-probability of each token given those before it, after one end token.

    A row longer than the model's context is scored in windows of `stride` new tokens, with as many earlier tokens as
    fit before them as context. By default windows do not overlap: the context of each is a single token.
    """
    window = pretrained.max_length
    stride = window if stride is None else stride
    if not 1 <= stride <= window:
        raise BertGPTError("BG204", f"stride must be 1 to {window}, the model's context, not {stride}")
    inputs, context_sizes, owners = [], [], []
    for number, row in enumerate(rows):
        ids = pretrained.prepend_eos(row)
        for first, start, stop in rolling_windows(len(row), window, stride):
            inputs.append(ids[first : stop + 1])
            context_sizes.append(start - first)
            owners.append(number)
    logprobs: list[list[float]] = [[] for _ in rows]
    for owner, context_size, nlls in zip(owners, context_sizes, token_nlls(pretrained.model, inputs), strict=True):
        logprobs[owner] += [-nll for nll in nlls[context_size:]]
    return logprobs


def rolling_windows(targets: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows that score every target once: each reads from `first` and scores targets `start` to `stop`."""
    start = 0
    while start < targets:
        stop = min(targets, start + (stride if start else window))
        yield max(0, stop - window), start, stop
        start = stop


def token_nlls(model: Transformer, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """The negative log-likelihood, in nats, of each token of each row but the first, given those before it."""
    return [nlls for nlls, _ in token_nlls_and_greedy(model, rows)]


@torch.inference_mode()
def token_nlls_and_greedy(model: Transformer, rows: Sequence[Sequence[int]]) -> list[tuple[list[float], list[bool]]]:
    """The same, and whether each token is the most likely one."""
    model.eval()
    results: list[tuple[list[float], list[bool]]] = [([], []) for _ in rows]
    for indices in batches_by_length(list(map(len, rows)), "scoring"):
        ids, _ = pad([rows[index] for index in indices], model.device)  # (B, T + 1)
        hidden = model(ids[:, :-1], causal=True)  # (B, T, D): no token sees the padding after it
        output = lm_loss(model, hidden.flatten(0, 1), ids[:, 1:].flatten())
        check_nan(output.losses)
        columns = (output.losses.view(len(indices), -1).tolist(), output.correct.view(len(indices), -1).tolist())
        for index, nlls, is_greedy in zip(indices, *columns, strict=True):
            targets = len(rows[index]) - 1
            results[index] = (nlls[:targets], is_greedy[:targets])
    return results


# ------------------------------------------------------------------------------------- masked


def pseudo_logprobs(pretrained: PretrainedModel, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """The log-probability of each token given all others (pseudo-log-likelihood; Salazar et al., 2020).

    The later tokens of its word are masked too (Kauf and Ivanova, 2023): otherwise they give the token away.
    """
    logprobs: list[list[float]] = []
    for number, row in enumerate(rows):
        longest = pretrained.max_length - 2
        if len(row) > longest:
            cause = f"{len(row):,} tokens, at most {longest:,} fit beside two special tokens"
            raise BertGPTError("BG204", f"text {number} is longer than the model's context", cause=cause)
        is_start = [*pretrained.tokenizer.starts_word[list(row)].tolist(), True]
        masks = [list(range(position, is_start.index(True, position + 1))) for position in range(len(row))]
        logits_by_mask = masked_logits(pretrained, row, masks)
        logprobs.append(
            [float(logits[0].log_softmax(dim=-1)[i]) for logits, i in zip(logits_by_mask, row, strict=True)]
        )
    return logprobs


@torch.inference_mode()
def masked_logits(pretrained: PretrainedModel, ids: Sequence[int], masks: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """Yield the logits (positions, V) at each of `masks`: sets of positions, each masked in a row of its own."""
    model = pretrained.model.eval()
    row = torch.tensor(pretrained.add_cls_sep(ids), device=model.device)
    batch_size = max(1, batching.MAX_BATCH_TOKENS // len(row))
    for batch in (masks[first : first + batch_size] for first in range(0, len(masks), batch_size)):
        row_index = torch.tensor([n for n, positions in enumerate(batch) for _ in positions], device=row.device)
        position = torch.tensor([1 + position for positions in batch for position in positions], device=row.device)
        input_ids = row.repeat(len(batch), 1)  # (B, T)
        input_ids[row_index, position] = pretrained.tokenizer.roles["mask"]
        hidden = model(input_ids, causal=False)[row_index, position - pretrained.mlm_shift]  # (all positions, D)
        yield from torch.split(check_nan(model.logits(hidden).float()), [len(positions) for positions in batch])


@torch.inference_mode()
def masked_logits_batched(
    pretrained: PretrainedModel, rows: Sequence[Sequence[int]], masks: Sequence[Sequence[int]]
) -> Iterator[tuple[int, Tensor]]:
    """Yield each row's index and its logits (positions, V) at its `masks`; the rows are already masked there."""
    model = pretrained.model.eval()
    for indices in batches_by_length(list(map(len, rows)), "predicting masks"):
        batch = [pretrained.add_cls_sep(rows[index]) for index in indices]
        input_ids, lengths = pad(batch, model.device)
        hidden = model(input_ids, causal=False, document_ids=padding_document_ids(input_ids, lengths))  # (B, T, D)
        for row, index in enumerate(indices):
            positions = torch.tensor(masks[index], device=input_ids.device) + 1 - pretrained.mlm_shift
            yield index, check_nan(model.logits(hidden[row, positions]).float())


def check_nan(output: Tensor) -> Tensor:
    """The output of a model, or an error if some of it is NaN: no score can be made of it."""
    if output.isnan().any():
        raise BertGPTError("BG321", "model output is NaN", hint="its weights are NaN, or too large for this precision")
    return output
