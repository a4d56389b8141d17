"""Interpolated Kneser-Ney word trigram: the baseline of a model that sees only two words of context.

Probabilities follow Chen and Goodman (1999), equations 4.22 and 4.23, with one discount for each order. N-grams are
packed into integers and counted with `np.unique`, so that tens of megabytes take seconds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Logps = NDArray[np.float64]


@dataclass(frozen=True)
class Order:
    """Counts of n-grams and of their contexts, as sorted keys."""

    grams: Ids
    counts: Ids
    contexts: Ids
    totals: Ids  # sum of the counts in each context
    types: Ids  # distinct words seen in each context
    discount: float


class Trigram:
    """p(word | two words before), trained on documents given as sequences of words."""

    def __init__(self, documents: Iterable[Sequence[str]]) -> None:
        self.vocabulary: dict[str, int] = {"": 0}  # the empty word pads the start of every document
        ids = [0, 0]
        for document in documents:
            ids += [self.vocabulary.setdefault(word, len(self.vocabulary)) for word in document]
            ids += [0, 0]
        self.base = len(self.vocabulary) + 1  # the last id is the unknown word
        third, counts = np.unique(self._windows(np.array(ids, np.int64)), return_counts=True)
        keep = third % self.base != 0  # padding is context, never predicted
        third, counts = third[keep], counts[keep]
        # lower orders count the distinct contexts of a word, not its occurrences
        second, continuations = np.unique(third % self.base**2, return_counts=True)
        first, spread = np.unique(second % self.base, return_counts=True)
        self.orders = [self._order(first, spread), self._order(second, continuations), self._order(third, counts)]

    def _windows(self, ids: Ids) -> Ids:
        return (ids[:-2] * self.base + ids[1:-1]) * self.base + ids[2:]

    def _order(self, grams: Ids, counts: Ids) -> Order:
        contexts, starts = np.unique(grams // self.base, return_index=True)
        ones, twos = int((counts == 1).sum()), int((counts == 2).sum())
        types = np.diff(np.append(starts, len(grams)))
        return Order(grams, counts, contexts, np.add.reduceat(counts, starts), types, ones / (ones + 2 * twos))

    def logps(self, document: Sequence[str]) -> Logps:
        """The log-probability of each word of a document."""
        unknown = self.base - 1
        ids = np.array([0, 0, *(self.vocabulary.get(word, unknown) for word in document)], np.int64)
        keys = self._windows(ids)
        p = np.full(len(keys), 1.0 / (self.base - 1))  # uniform over all words and the unknown one, without padding
        for n, order in enumerate(self.orders, start=1):
            p = self._interpolate(order, keys % self.base**n, p)
        logps: Logps = np.log(p)
        return logps

    def _interpolate(self, order: Order, keys: Ids, lower: Logps) -> Logps:
        """max(c - D, 0) / c(context) + D * types(context) / c(context) * p(word | shorter context)."""
        count = lookup(order.grams, keys, order.counts)
        total = lookup(order.contexts, keys // self.base, order.totals)
        types = lookup(order.contexts, keys // self.base, order.types)
        divisor = np.maximum(total, 1)
        p = np.maximum(count - order.discount, 0.0) / divisor + order.discount * types / divisor * lower
        return np.where(total > 0, p, lower)


def lookup(keys: Ids, queries: Ids, values: Ids) -> Ids:
    """The value of each query, 0 where `keys`, which are sorted, do not have it."""
    index = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[index] == queries, values[index], 0)
