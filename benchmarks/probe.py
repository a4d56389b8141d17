"""Embeddings of the 7,600 texts of AG News' test split, beside a padded loop over `transformers` with the same weights.

    python benchmarks/probe.py --data FOLDER [--rounds 5]

A BERT of d384 L6 H6 with random weights; `benchmarks/generate.py` has both implementations.
"""

import argparse
from pathlib import Path

from generate import embedding


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    embedding(options.data, options.rounds, texts=7600)


if __name__ == "__main__":
    main()
