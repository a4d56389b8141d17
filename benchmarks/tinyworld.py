"""tinyworld as an instrument: how fast it is, what there is to learn in it, and through which category.

    python benchmarks/tinyworld.py

The trigram is trained on 20 MB of other documents. A category's share of the gap is the part of what the trigram
lacks that stands on words of that category. The oracle guesses one masked word at a time from the whole document.
"""

import math
import statistics
import time
from collections import Counter

from bertgpt.tinyworld.grammar import CATEGORIES, END, tokens_of
from bertgpt.tinyworld.oracle import posterior
from bertgpt.tinyworld.trigram import Trigram
from bertgpt.tinyworld.world import World
from bertgpt.utils.console import Console

TRAIN_BYTES, TRAIN_FROM = 20_000_000, 1_000_000
JUDGED, MASKED = 10_000, 120  # documents


def main() -> None:
    """Print speed, the gap by category, and the oracle's accuracy."""
    console, world = Console(), World(0)
    documents = list(world.documents(0, JUDGED))

    rates = []
    for round_ in range(5):
        start = time.perf_counter()
        written = sum(len(d.text) for d in world.documents(round_ * JUDGED, (round_ + 1) * JUDGED))
        rates.append(written / (time.perf_counter() - start) / 1e6)
    start = time.perf_counter()
    readings = [world.parse(document.text) for document in documents]
    reading_rate = JUDGED / (time.perf_counter() - start)
    furthest = max(abs(r.logp - d.logp) for r, d in zip(readings, documents, strict=True))
    console.text(
        f"writing   {statistics.median(rates):.1f} MB/s on one core (median of 5: {min(rates):.1f}-{max(rates):.1f})"
    )
    console.text(
        f"reading   {reading_rate:.0f} documents/s; all {JUDGED} recovered, log-probabilities within {furthest:.1e}"
    )

    start, trained = time.perf_counter(), 0
    training = []
    for document in world.documents(TRAIN_FROM):
        training.append((*tokens_of(document.text), END))
        trained += len(document.text)
        if trained >= TRAIN_BYTES:
            break
    trigram = Trigram(training)
    console.text(f"trigram   {trained / 1e6:.1f} MB in {time.perf_counter() - start:.1f} s")

    words, true, guessed = Counter[str](), Counter[str](), Counter[str]()
    for reading in readings:
        logps = trigram.logps([word.text for word in reading.words])
        for word, logp in zip(reading.words, logps, strict=True):
            words[word.category] += 1
            true[word.category] -= word.logp
            guessed[word.category] -= float(logp)
    n, entropy, gap = words.total(), true.total(), guessed.total() - true.total()
    size = sum(len(document.text) for document in documents)
    types = len({word.text for reading in readings for word in reading.words})
    console.text(f"entropy   {entropy / n:.4f} nats a word or mark, {entropy / size / math.log(2):.4f} bits a byte")
    console.text(
        f"          {types} different words and marks; a document has {n / JUDGED:.1f}, in {size / JUDGED:.0f} bytes"
    )
    console.text(f"trigram   {guessed.total() / n:.4f} nats a word or mark: {100 * gap / entropy:.1f} % above it\n")

    hits, masked = Counter[str](), Counter[str]()
    start = time.perf_counter()
    for document, reading in zip(documents[:MASKED], readings[:MASKED], strict=True):
        for position, word in enumerate(reading.words[:-1]):
            if word.text[0].isalpha():
                guess = posterior(world, document.text, position)
                masked[word.category] += 1
                hits[word.category] += max(guess, key=guess.__getitem__) == word.text
    oracle_ms = 1000 * (time.perf_counter() - start) / masked.total()

    def row(name: str, some: tuple[str, ...]) -> list[str]:
        def total(counter: Counter[str]) -> float:
            return sum(counter[m] for m in some)

        return [
            name,
            f"{100 * total(words) / n:.1f} %",
            f"{total(true) / total(words):.3f}",
            f"{total(guessed) / total(words):.3f}",
            f"{100 * (total(guessed) - total(true)) / gap:.1f} %",
            f"{100 * total(hits) / total(masked):.1f} %",
        ]

    rows = [*(row(m, (m,)) for m in CATEGORIES), row("all", CATEGORIES)]
    console.table(["category", "words", "true nats", "trigram nats", "share of gap", "oracle, masked"], rows)
    console.text(f"\noracle    {masked.total()} words, {oracle_ms:.1f} ms each")


if __name__ == "__main__":
    main()
