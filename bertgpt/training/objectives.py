"""Training objectives: causal LM, masked LM with next-sentence prediction, and sequence classification.

An objective counts the targets of a batch before anything is computed, so that each loss of a step can be divided by
the targets of all its micro-batches on all ranks. Then it computes sums over the batch: of the loss, for the backward
pass, and of correct predictions, for metrics.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from bertgpt.data.loading.causal import CausalBatch
from bertgpt.data.loading.classification import PackedBatch
from bertgpt.data.loading.mlm import MLMBatch
from bertgpt.data.loading.segments import UNPAIRED
from bertgpt.model import SequenceClassifier, Transformer
from bertgpt.ops.cross_entropy import LossOutput, linear_cross_entropy

IGNORE_INDEX = -100


@dataclass
class LossTerm:
    """One term of the loss, summed over a batch."""

    loss: Tensor  # sum over targets, in nats
    metric_sums: dict[str, Tensor] = field(default_factory=dict)  # see metrics.METRIC_SUMS


class Objective(Protocol):
    """Computes the loss terms of a batch."""

    def count_targets(self, batch: Any) -> dict[str, int]:
        """Number of targets of each loss term, of a batch of NumPy arrays."""

    def __call__(self, model: Any, batch: Any) -> dict[str, LossTerm]:
        """The loss terms of a batch of tensors."""


@dataclass(frozen=True)
class CausalLM:
    """Causal language modeling: predict the next token. GPT's objective."""

    eos_id: int | None = None  # separates documents; None: attention crosses documents

    def count_targets(self, batch: CausalBatch) -> dict[str, int]:
        """Every position, except after the end of the token stream."""
        return {"clm": int(batch.num_targets.sum())}

    def __call__(self, model: Transformer, batch: CausalBatch) -> dict[str, LossTerm]:
        ids, next_ids = batch.input_ids[:, :-1], batch.input_ids[:, 1:]  # (B, T)
        index = torch.arange(ids.size(1), device=ids.device)
        targets = torch.where(index < batch.num_targets[:, None], next_ids, IGNORE_INDEX)
        documents, positions = (None, None) if self.eos_id is None else document_ids_and_positions(ids == self.eos_id)
        hidden = model(ids, causal=True, document_ids=documents, position_ids=positions)
        output = lm_loss(model, hidden.flatten(0, 1), targets.flatten())
        return {"clm": LossTerm(output.loss, {"correct": output.correct.sum()})}


@dataclass(frozen=True)
class MaskedLM:
    """Masked language modeling, with next-sentence prediction where the model has a head for it. BERT's objective.

    With `shift_targets` each masked token is predicted from the position before it, as in causal language modeling, so
    that one head serves both objectives (GPT-BERT; Charpentier and Samuel, 2024).
    """

    mask_id: int  # id of [MASK]
    shift_targets: bool = False

    def count_targets(self, batch: MLMBatch) -> dict[str, int]:
        """Masked tokens, and sentence pairs if there are any."""
        pairs = int((batch.next_sentence_labels != UNPAIRED).sum())
        return {"mlm": int(batch.num_targets.sum())} | ({"nsp": pairs} if pairs else {})

    def __call__(self, model: Transformer, batch: MLMBatch) -> dict[str, LossTerm]:
        length = batch.input_ids.size(1)
        documents, positions, segments = segment_layout(batch)
        hidden = model(
            batch.input_ids, causal=False, document_ids=documents, position_ids=positions, token_type_ids=segments
        )
        index = torch.arange(batch.masked_positions.size(1), device=hidden.device)
        targets = torch.where(index < batch.num_targets[:, None], batch.labels, IGNORE_INDEX).flatten()  # (B * K,)
        predict_at = (batch.masked_positions - int(self.shift_targets)).clamp(min=0)  # (B, K)
        output = lm_loss(model, gather_positions(hidden, predict_at).flatten(0, 1), targets)
        terms = {"mlm": LossTerm(output.loss, self.accuracy_sums(batch, output.correct, targets))}
        if model.config.token_types:
            labels = batch.next_sentence_labels.flatten()  # (B * P,)
            cls = gather_positions(hidden, batch.segment_starts.clamp(max=length - 1)).flatten(0, 1)  # (B * P, D)
            logits = model.nsp_logits(cls).float()
            loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=UNPAIRED, reduction="sum")
            terms["nsp"] = LossTerm(loss, {"correct": (logits.argmax(dim=1) == labels).sum()})
        return terms

    def accuracy_sums(self, batch: MLMBatch, correct: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Correct predictions in total; correct predictions and targets by what replaced the token (MASK_KINDS)."""
        input_ids = batch.input_ids.gather(1, batch.masked_positions).flatten()
        scored = targets != IGNORE_INDEX
        kinds = {"mask": input_ids == self.mask_id, "kept": input_ids == targets}
        kinds["random"] = ~(kinds["mask"] | kinds["kept"])
        sums = {"correct": correct.sum()}
        for kind, selected in kinds.items():
            sums |= {f"{kind}_correct": (correct & selected).sum(), f"{kind}_targets": (scored & selected).sum()}
        return sums


@dataclass(frozen=True)
class SequenceClassification:
    """Sequence classification, or regression if the model has one output. The objective of fine-tuning."""

    def count_targets(self, batch: PackedBatch) -> dict[str, int]:
        """One target for each text."""
        return {"regression" if batch.labels.dtype.kind == "f" else "classification": len(batch.labels)}

    def __call__(self, model: SequenceClassifier, batch: PackedBatch) -> dict[str, LossTerm]:
        logits = model(**batch.model_inputs()).float()
        if logits.size(1) == 1:
            loss = torch.nn.functional.mse_loss(logits[:, 0], batch.labels, reduction="sum")
            return {"regression": LossTerm(loss)}
        loss = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
        return {"classification": LossTerm(loss, {"correct": (logits.argmax(dim=1) == batch.labels).sum()})}


def lm_loss(model: Transformer, hidden: Tensor, targets: Tensor) -> LossOutput:
    """Cross-entropy of targets (N,) given hidden states (N, D)."""
    bias = model.lm_bias if model.config.lm_bias else None
    return linear_cross_entropy(
        model.lm_transform(hidden), model.token_embedding.weight, bias, targets, model.config.vocab_size
    )


def gather_positions(hidden: Tensor, positions: Tensor) -> Tensor:
    """Hidden states (B, K, D) at the given positions (B, K) of (B, T, D)."""
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.size(-1)))


def document_ids_and_positions(starts: Tensor) -> tuple[Tensor, Tensor]:
    """Document id and position within the document, both (B, T), given where documents start (B, T)."""
    documents = starts.long().cumsum(dim=1)
    index = torch.arange(starts.size(1), device=starts.device).expand_as(documents)
    return documents, index - torch.where(starts, index, 0).cummax(dim=1).values


def segment_layout(batch: MLMBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Segment id, position within the segment, and token type (0 sentence A, 1 sentence B), each (B, T).

    Padding is a segment of its own, so it attends only to itself and nothing else attends to it.
    """
    length = batch.input_ids.size(1)
    zeros = torch.zeros((len(batch.input_ids), length + 1), dtype=torch.long, device=batch.input_ids.device)
    starts = zeros.scatter(1, batch.segment_starts, 1).scatter(1, batch.lengths[:, None], 1)[:, :length]
    documents, positions = document_ids_and_positions(starts.bool())
    padding_b_start = torch.full_like(batch.lengths[:, None], length)  # at the end: padding has no sentence B
    b_starts = torch.cat((batch.sentence_b_starts, padding_b_start), dim=1)
    b_start = b_starts.gather(1, (documents - 1).clamp(min=0))  # (B, T): of the segment at each position
    index = torch.arange(length, device=batch.input_ids.device)
    return documents, positions, (index >= b_start).long()
