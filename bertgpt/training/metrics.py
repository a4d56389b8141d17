"""Training metrics: loss and accuracy of each loss term, from sums over batches, micro-batches and ranks."""

from collections.abc import Mapping
from typing import Any

import torch

from bertgpt.training.objectives import LossTerm

MASK_KINDS = ("mask", "random", "kept")  # what replaces a selected token: [MASK], a random token, or nothing
METRIC_SUMS = {
    "clm": ("correct",),
    "mlm": ("correct", *(f"{kind}_{what}" for kind in MASK_KINDS for what in ("correct", "targets"))),
    "nsp": ("correct",),
    "classification": ("correct",),
    "regression": (),
}
SUM_INDEX = {
    name: i
    for i, name in enumerate(f"{term}_{key}" for term, keys in METRIC_SUMS.items() for key in ("loss", "count", *keys))
}  # the same on every rank, whichever terms its batch has, so that one all-reduce serves all


class MetricAccumulator:
    """Sums of losses, correct predictions and targets. They stay on the device until `metrics` reads them."""

    def __init__(self, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        self.sums = torch.zeros(len(SUM_INDEX), dtype=dtype, device=device)

    def add(self, terms: Mapping[str, LossTerm], counts: Mapping[str, int]) -> None:
        """Add the loss terms of a batch; `counts` holds the number of targets of each."""
        for name, count in counts.items():
            self.sums[SUM_INDEX[f"{name}_loss"]] += terms[name].loss.detach()
            self.sums[SUM_INDEX[f"{name}_count"]] += count
            for key, value in terms[name].metric_sums.items():
                self.sums[SUM_INDEX[f"{name}_{key}"]] += value

    def metrics(self, term_weights: Mapping[str, float]) -> dict[str, float]:
        """The weighted total `loss`, then loss (nats per target) and accuracy of each term over its own targets."""
        sums = dict(zip(SUM_INDEX, self.sums.tolist(), strict=True))
        lm_terms = [term for term in ("clm", "mlm") if sums[f"{term}_count"]]
        metrics: dict[str, float] = {"loss": 0.0}
        if lm_terms:
            correct, count = (sum(sums[f"{term}_{key}"] for term in lm_terms) for key in ("correct", "count"))
            metrics["acc"] = correct / count
        for term in METRIC_SUMS:
            count = sums[f"{term}_count"]
            if count:
                metrics[f"{term}_loss"] = sums[f"{term}_loss"] / count
                if "correct" in METRIC_SUMS[term]:
                    metrics[f"{term}_acc"] = sums[f"{term}_correct"] / count
                metrics["loss"] += term_weights.get(term, 1.0) * metrics[f"{term}_loss"]
        for kind in MASK_KINDS if "mlm_loss" in metrics else ():
            metrics[f"{kind}_acc"] = sums[f"mlm_{kind}_correct"] / max(sums[f"mlm_{kind}_targets"], 1)
        return metrics


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """The loss and the gradient norm, for messages."""
    labels = {"loss": "loss", "grad_norm": "gradient norm"}
    return ", ".join(f"{label} {metrics[key]:.4g}" for key, label in labels.items() if key in metrics)
