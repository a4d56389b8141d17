"""tinyworld: speed of sampler and parser, true entropy, the loss of a trigram, and Bayes-optimal masked-word accuracy.

    python benchmarks/tinyworld.py

The trigram is trained on 20 MB of other documents. The share of the gap of a category is its part of the difference
between the trigram's loss and the true entropy. The Bayes optimum predicts one masked word given all others.
"""

import math
import statistics
import time
from collections import Counter
from itertools import takewhile

from bertgpt.tinyworld.grammar import CATEGORIES, END, tokens_of
from bertgpt.tinyworld.oracle import Oracle
from bertgpt.tinyworld.trigram import Trigram
from bertgpt.tinyworld.world import Document, Parse, World
from bertgpt.utils.console import Console

TRAIN_BYTES, TRAIN_START = 20_000_000, 1_000_000  # size and first document of the trigram's training set
DOCUMENTS, MASKED_DOCUMENTS = 10_000, 120
console = Console()


def measure_speed(world: World, documents: list[Document]) -> list[Parse]:
    """Print the speed of sampling and parsing; returns the parses."""
    rates = []
    for i in range(5):
        start = time.perf_counter()
        size = sum(len(d.text) for d in world.documents(i * DOCUMENTS, (i + 1) * DOCUMENTS))
        rates.append(size / (time.perf_counter() - start) / 1e6)
    console.text(
        f"sampling  {statistics.median(rates):.1f} MB/s on one core (median of 5: {min(rates):.1f}-{max(rates):.1f})"
    )
    start = time.perf_counter()
    parses = [world.parse(document.text) for document in documents]
    rate = DOCUMENTS / (time.perf_counter() - start)
    error = max(abs(p.logp - d.logp) for p, d in zip(parses, documents, strict=True))
    console.text(f"parsing   {rate:.0f} documents/s; all {DOCUMENTS} parsed, log-probabilities within {error:.1e}")
    return parses


def train_trigram(world: World) -> Trigram:
    """Train the trigram; prints size and time."""
    start, size = time.perf_counter(), 0

    def more(document: Document) -> bool:
        nonlocal size
        enough = size >= TRAIN_BYTES
        size += 0 if enough else len(document.text)
        return not enough

    trigram = Trigram([(*tokens_of(d.text), END) for d in takewhile(more, world.documents(TRAIN_START))])
    console.text(f"trigram   {size / 1e6:.1f} MB in {time.perf_counter() - start:.1f} s")
    return trigram


def masked_words(world: World, documents: list[Document], parses: list[Parse]) -> tuple[Counter[str], Counter[str]]:
    """By category: the number of masked words, and how many of them the Bayes optimum predicts correctly."""
    total, correct = Counter[str](), Counter[str]()
    start = time.perf_counter()
    for document, parse in zip(documents, parses, strict=True):
        oracle = Oracle(world, document.text)
        for position, word in enumerate(parse.words[:-1]):
            if word.text[0].isalpha():
                posterior = oracle.posterior(position)
                total[word.category] += 1
                correct[word.category] += max(posterior, key=posterior.__getitem__) == word.text
    ms = 1000 * (time.perf_counter() - start) / total.total()
    console.text(f"Bayes     {total.total()} masked words, {ms:.1f} ms each\n")
    return total, correct


def main() -> None:
    """Print speed, entropy, and a table by category."""
    world = World(0)
    documents = list(world.documents(0, DOCUMENTS))
    parses = measure_speed(world, documents)
    trigram = train_trigram(world)
    words, true_nll, trigram_nll = Counter[str](), Counter[str](), Counter[str]()
    for parse in parses:
        for word, logp in zip(parse.words, trigram.logps([word.text for word in parse.words]), strict=True):
            words[word.category] += 1
            true_nll[word.category] -= word.logp
            trigram_nll[word.category] -= float(logp)
    n, entropy, gap = words.total(), true_nll.total(), trigram_nll.total() - true_nll.total()
    size = sum(len(document.text) for document in documents)
    types = len({word.text for parse in parses for word in parse.words})
    console.text(f"entropy   {entropy / n:.4f} nats per token, {entropy / size / math.log(2):.4f} bits per byte")
    console.text(f"          {types} types; {n / DOCUMENTS:.1f} tokens and {size / DOCUMENTS:.0f} bytes per document")
    console.text(f"trigram   {trigram_nll.total() / n:.4f} nats per token: {100 * gap / entropy:.1f} % excess")
    masked, correct = masked_words(world, documents[:MASKED_DOCUMENTS], parses[:MASKED_DOCUMENTS])

    def row(name: str, categories: tuple[str, ...]) -> list[str]:
        def total(counter: Counter[str]) -> float:
            return sum(counter[category] for category in categories)

        return [
            name,
            f"{100 * total(words) / n:.1f} %",
            f"{total(true_nll) / total(words):.3f}",
            f"{total(trigram_nll) / total(words):.3f}",
            f"{100 * (total(trigram_nll) - total(true_nll)) / gap:.1f} %",
            f"{100 * total(correct) / total(masked):.1f} %",
        ]

    rows = [*(row(category, (category,)) for category in CATEGORIES), row("all", CATEGORIES)]
    console.table(["category", "tokens", "entropy", "trigram loss", "share of gap", "Bayes accuracy, masked"], rows)


if __name__ == "__main__":
    main()
