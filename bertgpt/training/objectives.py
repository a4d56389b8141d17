"""What a model is trained for: rows in, sums of losses out.

Every objective says how many targets rows have (before anything is computed, so that a step's losses can be divided by
the targets of all its parts) and computes sums: of the loss, which gradients flow from, and of what metrics are made
of.
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
    """One kind of loss over some rows."""

    loss: Tensor  # the sum over targets, in nats
    metric_sums: dict[str, Tensor] = field(default_factory=dict)  # what metrics are made of


class Objective(Protocol):
    """One interface."""

    def counts(self, rows: Any) -> dict[str, int]:
        """How many targets each term has in these rows, which are still arrays."""

    def __call__(self, model: Any, rows: Any) -> dict[str, LossTerm]:
        """The terms of these rows, which are tensors now."""


@dataclass(frozen=True)
class CausalLM:
    """Each id from those before it: GPT's objective."""

    end: int | None = None  # the id between documents, where these are kept apart

    def counts(self, rows: CausalBatch) -> dict[str, int]:
        """Every position but those beyond the end of the stream."""
        return {"clm": int(rows.scored.sum())}

    def __call__(self, model: Transformer, rows: CausalBatch) -> dict[str, LossTerm]:
        ids, following = rows.ids[:, :-1], rows.ids[:, 1:]  # (B, T)
        place = torch.arange(ids.size(1), device=ids.device)
        targets = torch.where(place < rows.scored[:, None], following, IGNORE_INDEX)
        documents, positions = (None, None) if self.end is None else document_ids_and_positions(ids == self.end)
        hidden = model(ids, causal=True, document_ids=documents, position_ids=positions)
        found = lm_loss(model, hidden.flatten(0, 1), targets.flatten())
        return {"clm": LossTerm(found.loss, {"correct": found.correct.sum()})}


@dataclass(frozen=True)
class MaskedLM:
    """Hidden ids from all around them, and whether sentences belong together: BERT's objective.

    `before` has them predicted from the position before each, so that one head serves this and GPT's objective alike
    (GPT-BERT; Charpentier and Samuel, 2024).
    """

    mask: int  # the id that hides
    shift_targets: bool = False

    def counts(self, rows: MLMBatch) -> dict[str, int]:
        """Hidden ids, and pairs."""
        pairs = int((rows.next_sentence != UNPAIRED).sum())
        return {"mlm": int(rows.scored.sum())} | ({"nsp": pairs} if pairs else {})

    def __call__(self, model: Transformer, rows: MLMBatch) -> dict[str, LossTerm]:
        length = rows.ids.size(1)
        documents, positions, segments = segment_layout(rows)
        hidden = model(rows.ids, causal=False, document_ids=documents, position_ids=positions, token_type_ids=segments)
        slot = torch.arange(rows.positions.size(1), device=hidden.device)
        targets = torch.where(slot < rows.scored[:, None], rows.labels, IGNORE_INDEX).flatten()  # (B * K,)
        at = (rows.positions - int(self.shift_targets)).clamp(min=0)
        found = lm_loss(model, gather_positions(hidden, at).flatten(0, 1), targets)
        terms = {"mlm": LossTerm(found.loss, self.sums(rows, found, targets))}
        if model.config.token_types:
            label = rows.next_sentence.flatten()
            first = gather_positions(hidden, rows.piece_starts.clamp(max=length - 1)).flatten(0, 1)  # (B * P, D)
            logits = model.nsp_logits(first).float()
            loss = torch.nn.functional.cross_entropy(logits, label, ignore_index=UNPAIRED, reduction="sum")
            terms["nsp"] = LossTerm(loss, {"correct": (logits.argmax(dim=1) == label).sum()})
        return terms

    def sums(self, rows: MLMBatch, found: LossOutput, targets: Tensor) -> dict[str, Tensor]:
        """Right guesses and targets: of all, and of what the mask, another id, or the id itself stands for."""
        shown = rows.ids.gather(1, rows.positions).flatten()
        right, scored = found.correct, targets != IGNORE_INDEX
        kinds = {"mask": shown == self.mask, "kept": shown == targets}
        kinds["random"] = ~(kinds["mask"] | kinds["kept"])
        sums = {"correct": right.sum()}
        for kind, of_kind in kinds.items():
            sums |= {f"{kind}_correct": (right & of_kind).sum(), f"{kind}_targets": (scored & of_kind).sum()}
        return sums


@dataclass(frozen=True)
class SequenceClassification:
    """A label for each text, or a number where there is one output only: fine-tuning."""

    def counts(self, rows: PackedBatch) -> dict[str, int]:
        """One for each text."""
        return {"regression" if rows.labels.dtype.kind == "f" else "classification": len(rows.labels)}

    def __call__(self, model: SequenceClassifier, rows: PackedBatch) -> dict[str, LossTerm]:
        logits = model(
            rows.ids,
            document_ids=rows.documents,
            position_ids=rows.positions,
            token_type_ids=rows.segments,
            row_index=rows.rows,
            pool_index=rows.places,
        ).float()
        if logits.size(1) == 1:
            loss = torch.nn.functional.mse_loss(logits[:, 0], rows.labels, reduction="sum")
            return {"regression": LossTerm(loss)}
        loss = torch.nn.functional.cross_entropy(logits, rows.labels, reduction="sum")
        return {"classification": LossTerm(loss, {"correct": (logits.argmax(dim=1) == rows.labels).sum()})}


def lm_loss(model: Transformer, hidden: Tensor, targets: Tensor) -> LossOutput:
    """The loss of targets (N,) after hidden states (N, D)."""
    bias = model.lm_bias if model.config.lm_bias else None
    return linear_cross_entropy(
        model.lm_transform(hidden), model.token_embedding.weight, bias, targets, model.config.vocab_size
    )


def gather_positions(hidden: Tensor, positions: Tensor) -> Tensor:
    """(B, T, D) and (B, K) to (B, K, D)."""
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.size(-1)))


def document_ids_and_positions(opens: Tensor) -> tuple[Tensor, Tensor]:
    """The document of each position (B, T) and its place in that, where some positions open a document."""
    documents = opens.long().cumsum(dim=1)
    place = torch.arange(opens.size(1), device=opens.device).expand_as(documents)
    return documents, place - torch.where(opens, place, 0).cummax(dim=1).values


def segment_layout(rows: MLMBatch) -> tuple[Tensor, Tensor, Tensor]:
    """The piece of each position (B, T), its place in that, and whether it is in the second sentence.

    Padding is a piece of its own: it sees itself, and nobody sees it.
    """
    length = rows.ids.size(1)
    marks = torch.zeros((len(rows.ids), length + 1), dtype=torch.long, device=rows.ids.device)
    opens = marks.scatter(1, rows.piece_starts, 1).scatter(1, rows.length[:, None], 1)[:, :length]
    documents, positions = document_ids_and_positions(opens.bool())
    begins = torch.cat((rows.second_starts, torch.full_like(rows.length[:, None], length)), dim=1)  # padding has none
    second = begins.gather(1, (documents - 1).clamp(min=0))  # (B, T): where B begins in the piece of each position
    place = torch.arange(length, device=rows.ids.device)
    return documents, positions, (place >= second).long()
