"""A step of Muon for the matrices of one block (d384, ModernBERT's), beside torch's, which computes in bf16 everywhere,
and beside our own with every round on the matrix itself.

    python benchmarks/muon.py [--rounds 5]

Where the processor has instructions for bf16 all three do the same; elsewhere torch's emulates them.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from generate import alternate

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


def steps(
    kind: Callable[[list[dict[str, Any]]], Any], times: int, of_gram: Any = muon.newton_schulz_gram
) -> Callable[[], int]:
    """So many of them, of matrices of its own."""
    draws = torch.Generator().manual_seed(0)
    matrices = [torch.nn.Parameter(torch.randn(size, generator=draws)) for size in SHAPES]
    optimizer = kind([{"params": matrices, "lr": 0.01, "weight_decay": 0.1}])

    def go() -> int:
        muon.newton_schulz_gram = of_gram
        for _ in range(times):
            for matrix in matrices:
                matrix.grad = torch.randn(matrix.shape, generator=draws)
            optimizer.step()
        return times

    return go


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sides = {
        "torch's": steps(torch.optim.Muon, 1),
        "on the matrix": steps(Muon, 10, muon.newton_schulz),
        "bertgpt's": steps(Muon, 10),
    }
    pairs = [("bertgpt's", "torch's"), ("bertgpt's", "on the matrix")]
    alternate("Muon, one block of d384", "steps", sides, pairs, options.rounds)


if __name__ == "__main__":
    main()
