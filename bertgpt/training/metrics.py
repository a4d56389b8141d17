"""Sums of losses and right guesses, on the device until somebody asks; over many rows, micro-batches and processes."""

import torch

from bertgpt.training.objectives import LossTerm

MASK_KINDS = ("mask", "random", "kept")  # what stands in the place of hidden ids
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
}  # the same in every process, whatever rows it has


class MetricAccumulator:
    """The sums of some rows."""

    def __init__(self, device: torch.device) -> None:
        exact = torch.float32 if device.type == "mps" else torch.float64  # which has no other
        self.values = torch.zeros(len(SUM_INDEX), dtype=exact, device=device)

    def add(self, terms: dict[str, LossTerm], counts: dict[str, int]) -> None:
        """Those of some more."""
        for name, count in counts.items():
            self.values[SUM_INDEX[f"{name}_loss"]] += terms[name].loss.detach()
            self.values[SUM_INDEX[f"{name}_count"]] += count
            for key, value in terms[name].metric_sums.items():
                self.values[SUM_INDEX[f"{name}_{key}"]] += value

    def metrics(self, weights: dict[str, float]) -> dict[str, float]:
        """Losses in nats and shares of right guesses, each over its own targets; the weighted sum of losses first."""
        sums = dict(zip(SUM_INDEX, self.values.tolist(), strict=True))
        main = [term for term in ("clm", "mlm") if sums[f"{term}_count"]]
        found: dict[str, float] = {"loss": 0.0}
        if main:
            right, count = (sum(sums[f"{term}_{key}"] for term in main) for key in ("correct", "count"))
            found["acc"] = right / count
        for term in METRIC_SUMS:
            count = sums[f"{term}_count"]
            if count:
                found[f"{term}_loss"] = sums[f"{term}_loss"] / count
                if "correct" in METRIC_SUMS[term]:
                    found[f"{term}_acc"] = sums[f"{term}_correct"] / count
                found["loss"] += weights.get(term, 1.0) * found[f"{term}_loss"]
        for kind in MASK_KINDS if "mlm_loss" in found else ():
            found[f"{kind}_acc"] = sums[f"mlm_{kind}_correct"] / max(sums[f"mlm_{kind}_targets"], 1)
        return found
