"""Embeddings that begin as counts have it: ids that stand near the same others begin near each other.

What a small model would first have to find out by many steps is known from counting once. With n(a, b), how often b is
within twenty ids of a, and shares p, the pointwise mutual information log p(a, b) / p(a) p(b) says how much more often
that is than chance would have it. Its positive part, a matrix V x V, is nearly the product of a V x D one with itself,
and that is what the embedding becomes (Levy and Goldberg, 2014; contexts are smoothed as in Levy, Goldberg and Dagan,
2015). The bias of each id, where there is one, becomes the logarithm of its share.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bertgpt.data.format import TokenFile
from bertgpt.data.loading.open import open_artifact, split_files
from bertgpt.model import Transformer
from bertgpt.training.init import INIT_STD
from bertgpt.utils import console

WINDOW = 20  # ids to each side
CONTEXT_SMOOTHING = 0.75  # the power of shares of contexts: rare ones are made a little less surprising
MAX_STREAM = 20_000_000  # ids of the training text, the first ones
MAX_TOKENS = 16_384  # ids that are counted; the others keep what they were given
SEED = 0


@torch.no_grad()
def ppmi_init(model: Transformer, shards: Path) -> None:
    """Change the embedding of a model that knows nothing yet, and its bias."""
    manifest, _ = open_artifact(shards, "shards")
    stream = leading_tokens([TokenFile(shards / name).flat for name in split_files(manifest, "train")], MAX_STREAM)
    times = np.bincount(stream, minlength=model.config.vocab_size)
    if model.config.lm_bias:
        shares = (times + 1) / (times + 1).sum()
        model.lm_bias.copy_(torch.from_numpy(np.log(shares)))
    chosen = np.argsort(-times, kind="stable")[:MAX_TOKENS]
    chosen = np.sort(chosen[times[chosen] > 0])
    place = np.full(model.config.vocab_size, len(chosen))  # all others share one place
    place[chosen] = np.arange(len(chosen))
    found = low_rank_factor(ppmi(cooccurrence_counts(place[stream], len(chosen))), model.config.dim)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    known = lengths[:, 0] > 0
    rows = (
        found[known] / lengths[known] * INIT_STD * np.sqrt(model.config.dim)
    )  # as long as those it takes the place of
    model.token_embedding.weight[torch.from_numpy(chosen[known])] = torch.from_numpy(rows.astype(np.float32))


def leading_tokens(flats: Sequence[NDArray[Any]], most: int) -> NDArray[Any]:
    """The beginning of a stream in several files."""
    parts, left = [], most
    for flat in flats:
        parts.append(flat[:left])
        left -= len(parts[-1])
    return np.concatenate(parts)


def cooccurrence_counts(stream: NDArray[np.int64], known: int) -> NDArray[np.float32]:
    """How often each id has each other one near it, (known, known)."""
    size = known + 1  # the last place is everybody else's
    found = np.zeros(size * size, np.float32)
    progress = console.Progress("counting neighbours", WINDOW, of_bytes=False)
    for far in range(1, WINDOW + 1):
        found += np.bincount(stream[:-far] * size + stream[far:], minlength=size * size).astype(np.float32)
        progress.update(far)
    progress.end()
    square = found.reshape(size, size)[:known, :known]
    both: NDArray[np.float32] = square + square.T
    return both


def ppmi(near: NDArray[np.float32]) -> NDArray[np.float32]:
    """The positive part of pointwise mutual information."""
    mine = near.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        context = mine**CONTEXT_SMOOTHING / (mine**CONTEXT_SMOOTHING).sum()
        found = np.log(near) - np.log(mine)[:, None] - np.log(context)
    positive: NDArray[np.float32] = np.maximum(np.nan_to_num(found, nan=0.0, neginf=0.0), 0.0).astype(np.float32)
    return positive


def low_rank_factor(symmetric: NDArray[np.float32], dim: int) -> NDArray[np.float64]:
    """A matrix (rows, dim) whose product with itself is nearly another one: its largest directions, by their roots."""
    from sklearn.utils.extmath import randomized_svd

    size = min(dim, len(symmetric))
    left, strengths, _ = randomized_svd(symmetric, size, n_iter=3, random_state=SEED)
    found = np.zeros((len(symmetric), dim))
    found[:, :size] = left * np.sqrt(strengths)
    return found
