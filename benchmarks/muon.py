"""Speed of a Muon step for the matrices of one ModernBERT block of d384, beside torch.optim.Muon.

    python benchmarks/muon.py [--rounds 5]

torch's computes in bf16 everywhere, which CPUs without bf16 instructions emulate. The third side is our own with every
Newton-Schulz step on the matrix itself instead of its Gram matrix; with bf16 instructions all three do the same.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from generate import compare

from bertgpt.config.presets import MODERNBERT, make_config
from bertgpt.training import muon
from bertgpt.training.muon import Muon

BLOCK = make_config(384, 1, 6, 64, MODERNBERT, ffn_dim=576)
SHAPES = (
    (3 * BLOCK.dim, BLOCK.dim),
    (BLOCK.dim, BLOCK.dim),
    (2 * BLOCK.ffn_dim, BLOCK.dim),
    (BLOCK.dim, BLOCK.ffn_dim),
)


def optimizer_steps(
    make_optimizer: Callable[[list[dict[str, Any]]], Any], times: int, gram_form: Any = muon.newton_schulz_gram
) -> Callable[[], int]:
    """A function that takes so many steps on its own matrices."""
    draws = torch.Generator().manual_seed(0)
    matrices = [torch.nn.Parameter(torch.randn(size, generator=draws)) for size in SHAPES]
    optimizer = make_optimizer([{"params": matrices, "lr": 0.01, "weight_decay": 0.1}])

    def go() -> int:
        muon.newton_schulz_gram = gram_form
        for _ in range(times):
            for matrix in matrices:
                matrix.grad = torch.randn(matrix.shape, generator=draws)
            optimizer.step()
        return times

    return go


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sides = {
        "torch": optimizer_steps(torch.optim.Muon, 1),
        "bertgpt, without Gram form": optimizer_steps(Muon, 10, muon.newton_schulz),
        "bertgpt": optimizer_steps(Muon, 10),
    }
    pairs = [("bertgpt", "torch"), ("bertgpt", "bertgpt, without Gram form")]
    compare("Muon, one block of d384", "steps", sides, pairs, options.rounds)


if __name__ == "__main__":
    main()
