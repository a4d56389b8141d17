"""How likely a text is to a model: token by token, given what came before, or given all the others (a BERT's way)."""

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
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError


@dataclass(frozen=True)
class SequenceScore:
    """Of one text."""

    tokens: list[int]
    logprobs: list[float]  # of each
    bytes: int  # of the text
    bits_per_byte: float | None  # nothing where a tokenizer does not keep the text

    @property
    def logprob(self) -> float:
        """Of the whole text, in nats."""
        return math.fsum(self.logprobs)


def score_texts(kept: PretrainedModel, texts: Sequence[str], stride: int | None = None) -> list[SequenceScore]:
    """Of each text: the log-likelihood of a model that looks back; the pseudo-log-likelihood of one that fills gaps."""
    rows = [encode_checked(kept.tokenizer, text) for text in texts]
    found = pseudo_logprobs(kept, rows) if kept.objective == "mlm" else token_logprobs(kept, rows, stride)
    exact = kept.tokenizer.token_bytes is not None and kept.objective != "mlm"
    made = []
    for text, ids, logprobs in zip(texts, rows, found, strict=True):
        size = len(text.encode())
        per_byte = -math.fsum(logprobs) / math.log(2) / size if exact and size else None
        made.append(SequenceScore(ids, logprobs, size, per_byte))
    return made


# ------------------------------------------------------------------------------------- given what came before


def token_logprobs(
    kept: PretrainedModel, rows: Sequence[Sequence[int]], stride: int | None = None
) -> list[list[float]]:
    """The log-probability of each id of each row, from one end id on.

    A row that is longer than the model's is read in windows that each score `stride` ids, behind as much of what came
    before as there is room for; without it, windows stand side by side, each behind one id only.
    """
    window = kept.max_length
    stride = window if stride is None else stride
    if not 1 <= stride <= window:
        raise BertGPTError("BG204", f"the stride is 1 to {window} ids, the model's rows, not {stride}")
    parts, skipped, owners = [], [], []
    for number, row in enumerate(rows):
        whole = kept.prepend_end(row)
        for first, start, stop in rolling_windows(len(row), window, stride):
            parts.append(whole[first : stop + 1])
            skipped.append(start - first)
            owners.append(number)
    found: list[list[float]] = [[] for _ in rows]
    for owner, skip, costs in zip(owners, skipped, token_nlls(kept.model, parts), strict=True):
        found[owner] += [-cost for cost in costs[skip:]]
    return found


def rolling_windows(targets: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """How targets are scored in windows: each reads from `first` on and scores from `start` to `stop`."""
    start = 0
    while start < targets:
        stop = min(targets, start + (stride if start else window))
        yield max(0, stop - window), start, stop
        start = stop


def token_nlls(model: Transformer, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """The nats of each id of each row but its first, given those before it."""
    return [costs for costs, _ in token_nlls_and_greedy(model, rows)]


@torch.inference_mode()
def token_nlls_and_greedy(model: Transformer, rows: Sequence[Sequence[int]]) -> list[tuple[list[float], list[bool]]]:
    """The same, and whether each is the likeliest."""
    model.eval()
    found: list[tuple[list[float], list[bool]]] = [([], []) for _ in rows]
    progress = console.Progress("scoring", sum(map(len, rows)), of_bytes=False)
    done = 0
    for numbers in batches_by_length(list(map(len, rows))):
        ids, _ = pad([rows[number] for number in numbers], model.token_embedding.weight.device)  # (B, T + 1)
        hidden = model(ids[:, :-1], causal=True)  # (B, T, D): nobody who is scored looks at what fills up
        scored = lm_loss(model, hidden.flatten(0, 1), ids[:, 1:].flatten())
        columns = (scored.losses.view(len(numbers), -1).tolist(), scored.correct.view(len(numbers), -1).tolist())
        for number, costs, right in zip(numbers, *columns, strict=True):
            targets = len(rows[number]) - 1
            found[number] = (costs[:targets], right[:targets])
            done += targets
        progress.update(done)
    progress.end()
    return found


# ------------------------------------------------------------------------------------- given all the others


def pseudo_logprobs(kept: PretrainedModel, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """The log-probability of each id of each row, given the others (Salazar et al., 2020).

    With an id the later ones of its word are hidden too (Kauf and Ivanova, 2023): else a word in several pieces gives
    itself away.
    """
    found: list[list[float]] = []
    for number, row in enumerate(rows):
        longest = kept.max_length - 2
        if len(row) > longest:
            cause = f"{len(row):,} tokens, rows of {longest:,} beside two special ones"
            raise BertGPTError("BG204", f"text {number} is longer than the model's context", cause=cause)
        begins = [*kept.tokenizer.starts_word[list(row)].tolist(), True]
        gaps = [list(range(at, begins.index(True, at + 1))) for at in range(len(row))]
        logits = masked_logits(kept, row, gaps)
        found.append([float(some[0].log_softmax(dim=-1)[i]) for some, i in zip(logits, row, strict=True)])
    return found


@torch.inference_mode()
def masked_logits(kept: PretrainedModel, ids: Sequence[int], gaps: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """The logits of what some places of a text hide, (places, V), each gap in a row where nothing else is hidden."""
    model = kept.model.eval()
    row = torch.tensor(kept.add_cls_sep(ids), device=model.token_embedding.weight.device)
    several = max(1, batching.MAX_BATCH_TOKENS // len(row))
    for some in (gaps[first : first + several] for first in range(0, len(gaps), several)):
        number = torch.tensor([n for n, places in enumerate(some) for _ in places], device=row.device)
        place = torch.tensor([1 + place for places in some for place in places], device=row.device)
        holed = row.repeat(len(some), 1)  # (B, T)
        holed[number, place] = kept.tokenizer.roles["mask"]
        hidden = model(holed, causal=False)[number, place - kept.mlm_shift]  # (all places, D)
        yield from torch.split(model.logits(hidden).float(), [len(places) for places in some])


@torch.inference_mode()
def masked_logits_batched(
    kept: PretrainedModel, rows: Sequence[Sequence[int]], gaps: Sequence[Sequence[int]]
) -> Iterator[tuple[int, Tensor]]:
    """The logits (places, V) of some places of each text, which are hidden already, with the number of the text."""
    model = kept.model.eval()
    progress = console.Progress("filling gaps", len(rows), of_bytes=False)
    done = 0
    for numbers in batches_by_length(list(map(len, rows))):
        ids, lengths = pad([kept.add_cls_sep(rows[number]) for number in numbers], model.token_embedding.weight.device)
        hidden = model(ids, causal=False, document_ids=padding_document_ids(ids, lengths))  # (B, T, D)
        for line, number in enumerate(numbers):
            places = torch.tensor(gaps[number], device=ids.device) + 1 - kept.mlm_shift
            yield number, model.logits(hidden[line, places]).float()
        done += len(numbers)
        progress.update(done)
    progress.end()
