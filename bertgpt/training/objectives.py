"""What a model is trained for: rows in, sums of losses out.

Every objective says how many targets rows have (before anything is computed, so that a step's losses can be divided by
the targets of all its parts) and computes sums: of the loss, which gradients flow from, and of what metrics are made
of.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from bertgpt.data.loading.causal import Causal
from bertgpt.data.loading.classification import Packed
from bertgpt.data.loading.mlm import MaskedRows
from bertgpt.data.loading.segments import UNPAIRED
from bertgpt.model import Classifier, Transformer
from bertgpt.ops.cross_entropy import Scored, cross_entropy

UNSCORED = -100


@dataclass
class Term:
    """One kind of loss over some rows."""

    loss: Tensor  # the sum over targets, in nats
    sums: dict[str, Tensor] = field(default_factory=dict)  # what metrics are made of


class Objective(Protocol):
    """One interface."""

    def counts(self, rows: Any) -> dict[str, int]:
        """How many targets each term has in these rows, which are still arrays."""

    def __call__(self, model: Any, rows: Any) -> dict[str, Term]:
        """The terms of these rows, which are tensors now."""


@dataclass(frozen=True)
class Onward:
    """Each id from those before it: GPT's objective."""

    end: int | None = None  # the id between documents, where these are kept apart

    def counts(self, rows: Causal) -> dict[str, int]:
        """Every position but those beyond the end of the stream."""
        return {"causal": int(rows.scored.sum())}

    def __call__(self, model: Transformer, rows: Causal) -> dict[str, Term]:
        ids, following = rows.ids[:, :-1], rows.ids[:, 1:]  # (B, T)
        place = torch.arange(ids.size(1), device=ids.device)
        targets = torch.where(place < rows.scored[:, None], following, UNSCORED)
        documents, positions = (None, None) if self.end is None else apart(ids == self.end)
        hidden = model(ids, causal=True, documents=documents, positions=positions)
        found = vocabulary_loss(model, hidden.flatten(0, 1), targets.flatten())
        return {"causal": Term(found.loss, {"right": found.right.sum()})}


@dataclass(frozen=True)
class Hidden:
    """Hidden ids from all around them, and whether sentences belong together: BERT's objective.

    `before` has them predicted from the position before each, so that one head serves this and GPT's objective alike
    (GPT-BERT; Charpentier and Samuel, 2024).
    """

    mask: int  # the id that hides
    before: bool = False

    def counts(self, rows: MaskedRows) -> dict[str, int]:
        """Hidden ids, and pairs."""
        pairs = int((rows.next_sentence != UNPAIRED).sum())
        return {"masked": int(rows.scored.sum())} | ({"pairs": pairs} if pairs else {})

    def __call__(self, model: Transformer, rows: MaskedRows) -> dict[str, Term]:
        length = rows.ids.size(1)
        documents, positions, segments = pieces(rows)
        hidden = model(rows.ids, causal=False, documents=documents, positions=positions, segments=segments)
        slot = torch.arange(rows.positions.size(1), device=hidden.device)
        targets = torch.where(slot < rows.scored[:, None], rows.labels, UNSCORED).flatten()  # (B * K,)
        at = (rows.positions - int(self.before)).clamp(min=0)
        found = vocabulary_loss(model, at_positions(hidden, at).flatten(0, 1), targets)
        terms = {"masked": Term(found.loss, self.sums(rows, found, targets))}
        if model.config.segments:
            label = rows.next_sentence.flatten()
            first = at_positions(hidden, rows.piece_starts.clamp(max=length - 1)).flatten(0, 1)  # (B * P, D)
            logits = model.next_sentence(first).float()
            loss = torch.nn.functional.cross_entropy(logits, label, ignore_index=UNPAIRED, reduction="sum")
            terms["pairs"] = Term(loss, {"right": (logits.argmax(dim=1) == label).sum()})
        return terms

    def sums(self, rows: MaskedRows, found: Scored, targets: Tensor) -> dict[str, Tensor]:
        """Right guesses and targets: of all, and of what the mask, another id, or the id itself stands for."""
        shown = rows.ids.gather(1, rows.positions).flatten()
        right, scored = found.right, targets != UNSCORED
        kinds = {"mask": shown == self.mask, "kept": shown == targets}
        kinds["random"] = ~(kinds["mask"] | kinds["kept"])
        sums = {"right": right.sum()}
        for kind, of_kind in kinds.items():
            sums |= {f"{kind}_right": (right & of_kind).sum(), f"{kind}_targets": (scored & of_kind).sum()}
        return sums


@dataclass(frozen=True)
class Classify:
    """A label for each text, or a number where there is one output only: fine-tuning."""

    def counts(self, rows: Packed) -> dict[str, int]:
        """One for each text."""
        return {"numbers" if rows.labels.dtype.kind == "f" else "labels": len(rows.labels)}

    def __call__(self, model: Classifier, rows: Packed) -> dict[str, Term]:
        logits = model(
            rows.ids, documents=rows.documents, positions=rows.positions, segments=rows.segments, rows=rows.rows,
            places=rows.places,
        ).float()  # fmt: skip
        if logits.size(1) == 1:
            loss = torch.nn.functional.mse_loss(logits[:, 0], rows.labels, reduction="sum")
            return {"numbers": Term(loss)}
        loss = torch.nn.functional.cross_entropy(logits, rows.labels, reduction="sum")
        return {"labels": Term(loss, {"right": (logits.argmax(dim=1) == rows.labels).sum()})}


def vocabulary_loss(model: Transformer, hidden: Tensor, targets: Tensor) -> Scored:
    """The loss of targets (N,) after hidden states (N, D)."""
    bias = model.head_bias if model.config.head_bias else None
    return cross_entropy(model.before_logits(hidden), model.tokens.weight, bias, targets, model.config.vocab)


def at_positions(hidden: Tensor, positions: Tensor) -> Tensor:
    """(B, T, D) and (B, K) to (B, K, D)."""
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.size(-1)))


def apart(opens: Tensor) -> tuple[Tensor, Tensor]:
    """The document of each position (B, T) and its place in that, where some positions open a document."""
    documents = opens.long().cumsum(dim=1)
    place = torch.arange(opens.size(1), device=opens.device).expand_as(documents)
    return documents, place - torch.where(opens, place, 0).cummax(dim=1).values


def pieces(rows: MaskedRows) -> tuple[Tensor, Tensor, Tensor]:
    """The piece of each position (B, T), its place in that, and whether it is in the second sentence.

    Padding is a piece of its own: it sees itself, and nobody sees it.
    """
    length = rows.ids.size(1)
    marks = torch.zeros((len(rows.ids), length + 1), dtype=torch.long, device=rows.ids.device)
    opens = marks.scatter(1, rows.piece_starts, 1).scatter(1, rows.length[:, None], 1)[:, :length]
    documents, positions = apart(opens.bool())
    begins = torch.cat((rows.second_starts, torch.full_like(rows.length[:, None], length)), dim=1)  # padding has none
    second = begins.gather(1, (documents - 1).clamp(min=0))  # (B, T): where B begins in the piece of each position
    place = torch.arange(length, device=rows.ids.device)
    return documents, positions, (place >= second).long()
