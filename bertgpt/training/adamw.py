"""AdamW (Loshchilov and Hutter, 2019): Adam with decoupled weight decay."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from bertgpt.ops.torch_private import adamw_, add_one

EPS = 1e-8
BETA1 = 0.9


class AdamW:
    """Fused AdamW: one call per parameter group, which is five times as fast as a loop over parameters, on CPUs too.

    Bitwise equal to `torch.optim.AdamW(fused=True)`, without what that class imports for torch.compile: it takes
    longer to import than torch itself.
    """

    def __init__(self, groups: list[dict[str, Any]], beta2: float) -> None:
        self.groups, self.beta2 = groups, beta2
        self.state: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            states = [self.state[parameter] for parameter in parameters]
            for parameter, state in zip(parameters, states, strict=True):
                if not state:
                    state["step"] = torch.zeros((), device=parameter.device)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
            add_one([state["step"] for state in states])
            adamw_(parameters, states, group["lr"], (BETA1, self.beta2), group["weight_decay"], EPS)
