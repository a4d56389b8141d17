"""Sums of losses and right guesses, on the device until somebody asks; over many rows, micro-batches and processes."""

import torch

from bertgpt.training.objectives import Term

KINDS = ("mask", "random", "kept")  # what stands in the place of hidden ids
SUMS = {
    "causal": ("right",),
    "masked": ("right", *(f"{kind}_{what}" for kind in KINDS for what in ("right", "targets"))),
    "pairs": ("right",),
    "labels": ("right",),
    "numbers": (),
}
PLACE = {
    name: i for i, name in enumerate(f"{term}_{key}" for term, keys in SUMS.items() for key in ("loss", "count", *keys))
}  # the same in every process, whatever rows it has


class Tally:
    """The sums of some rows."""

    def __init__(self, device: torch.device) -> None:
        exact = torch.float32 if device.type == "mps" else torch.float64  # which has no other
        self.values = torch.zeros(len(PLACE), dtype=exact, device=device)

    def add(self, terms: dict[str, Term], counts: dict[str, int]) -> None:
        """Those of some more."""
        for name, count in counts.items():
            self.values[PLACE[f"{name}_loss"]] += terms[name].loss.detach()
            self.values[PLACE[f"{name}_count"]] += count
            for key, value in terms[name].sums.items():
                self.values[PLACE[f"{name}_{key}"]] += value

    def metrics(self, weights: dict[str, float]) -> dict[str, float]:
        """Losses in nats and shares of right guesses, each over its own targets; the weighted sum of losses first."""
        sums = dict(zip(PLACE, self.values.tolist(), strict=True))
        main = [term for term in ("causal", "masked") if sums[f"{term}_count"]]
        found: dict[str, float] = {"loss": 0.0}
        if main:
            right, count = (sum(sums[f"{term}_{key}"] for term in main) for key in ("right", "count"))
            found["acc"] = right / count
        for term in SUMS:
            count = sums[f"{term}_count"]
            if count:
                found[f"{term}_loss"] = sums[f"{term}_loss"] / count
                if "right" in SUMS[term]:
                    found[f"{term}_acc"] = sums[f"{term}_right"] / count
                found["loss"] += weights.get(term, 1.0) * found[f"{term}_loss"]
        for kind in KINDS if "masked_loss" in found else ():
            found[f"{kind}_acc"] = sums[f"masked_{kind}_right"] / max(sums[f"masked_{kind}_targets"], 1)
        return found
