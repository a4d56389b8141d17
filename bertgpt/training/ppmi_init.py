"""PPMI initialization of token embeddings, from co-occurrence counts of the training tokens.

A small model would need many steps to learn what one pass of counting shows: which tokens occur in similar contexts.
With n(a, b) the number of times b occurs within WINDOW tokens of a, and p the corresponding probabilities, the
pointwise mutual information log p(a, b) / (p(a) p(b)) is how much more often that is than by chance. Its positive
part, a V x V matrix, is approximately E E^T for a V x D matrix E, which initializes the embedding (Levy and Goldberg,
2014; contexts are smoothed as in Levy, Goldberg and Dagan, 2015). The output bias, where there is one, is set to the
log frequencies.
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

WINDOW = 20  # tokens to each side
CONTEXT_SMOOTHING = 0.75  # exponent of context probabilities, which lowers the PMI of rare contexts
MAX_STREAM = 20_000_000  # training tokens that are counted, from the start
MAX_TOKENS = 16_384  # most frequent tokens that are counted; the others keep their random initialization
SEED = 0


@torch.no_grad()
def ppmi_init(model: Transformer, shards: Path) -> None:
    """Initialize token embedding and output bias of a model from the training split of shards."""
    manifest, _ = open_artifact(shards, "shards")
    stream = leading_tokens([TokenFile(shards / name).flat for name in split_files(manifest, "train")], MAX_STREAM)
    frequency = np.bincount(stream, minlength=model.config.vocab_size)
    if model.config.lm_bias:
        probs = (frequency + 1) / (frequency + 1).sum()
        model.lm_bias.copy_(torch.from_numpy(np.log(probs)))
    token_ids = np.argsort(-frequency, kind="stable")[:MAX_TOKENS]
    token_ids = np.sort(token_ids[frequency[token_ids] > 0])
    index = np.full(model.config.vocab_size, len(token_ids))  # all other tokens share the last index
    index[token_ids] = np.arange(len(token_ids))
    factor = low_rank_factor(ppmi(cooccurrence_counts(index[stream], len(token_ids))), model.config.dim)
    norms = np.linalg.norm(factor, axis=1, keepdims=True)
    nonzero = norms[:, 0] > 0
    rows = factor[nonzero] / norms[nonzero] * INIT_STD * np.sqrt(model.config.dim)  # the norm of random embeddings
    model.token_embedding.weight[torch.from_numpy(token_ids[nonzero])] = torch.from_numpy(rows.astype(np.float32))


def leading_tokens(streams: Sequence[NDArray[Any]], max_tokens: int) -> NDArray[Any]:
    """The first tokens of several streams, concatenated."""
    parts, remaining = [], max_tokens
    for stream in streams:
        parts.append(stream[:remaining])
        remaining -= len(parts[-1])
    return np.concatenate(parts)


def cooccurrence_counts(stream: NDArray[np.int64], vocab_size: int) -> NDArray[np.float32]:
    """Symmetric counts of tokens within WINDOW of each other, (vocab_size, vocab_size). Larger ids are not counted."""
    size = vocab_size + 1  # the last id stands for all tokens that are not counted
    counts = np.zeros(size * size, np.float32)
    progress = console.Progress("counting co-occurrences", WINDOW, in_bytes=False)
    for distance in range(1, WINDOW + 1):
        pairs = stream[:-distance] * size + stream[distance:]
        counts += np.bincount(pairs, minlength=size * size).astype(np.float32)
        progress.update(distance)
    progress.end()
    forward = counts.reshape(size, size)[:vocab_size, :vocab_size]
    symmetric: NDArray[np.float32] = forward + forward.T
    return symmetric


def ppmi(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Positive pointwise mutual information of co-occurrence counts, with smoothed contexts."""
    totals = counts.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        context = totals**CONTEXT_SMOOTHING / (totals**CONTEXT_SMOOTHING).sum()
        pmi = np.log(counts) - np.log(totals)[:, None] - np.log(context)
    positive: NDArray[np.float32] = np.maximum(np.nan_to_num(pmi, nan=0.0, neginf=0.0), 0.0).astype(np.float32)
    return positive


def low_rank_factor(matrix: NDArray[np.float32], dim: int) -> NDArray[np.float64]:
    """A matrix F (rows, dim) with F F^T close to a symmetric matrix, from its truncated SVD."""
    from sklearn.utils.extmath import randomized_svd

    rank = min(dim, len(matrix))
    left, singular_values, _ = randomized_svd(matrix, rank, n_iter=3, random_state=SEED)
    factor = np.zeros((len(matrix), dim))
    factor[:, :rank] = left * np.sqrt(singular_values)
    return factor
