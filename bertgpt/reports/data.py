"""Summarizes training data: document lengths, token frequencies, examples and, for tinyworld, the true entropy."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertgpt.data.format import TokenFile, read_manifest, verify, verify_tokenizer
from bertgpt.data.loading.describe import QUANTILES
from bertgpt.data.loading.describe_mask import describe_mask_rows
from bertgpt.data.loading.open import open_base_shards, split_files
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.reports.charts import Chart, Series
from bertgpt.tinyworld.grammar import NotInLanguage
from bertgpt.tinyworld.world import World
from bertgpt.utils.errors import BertGPTError

MAX_COUNTED = 50_000_000  # tokens whose frequencies are counted
VALIDATION_DOCUMENTS = 300  # read for examples and for the true entropy
EXAMPLES, BINS, FREQUENT = 2, 12, 20


@dataclass
class DatasetSummary:
    """Statistics of shards, and one row of the mask plan over them if there is one."""

    path: Path
    manifest: dict[str, Any]
    lengths: list[tuple[str, float]]  # histogram of tokens per document
    quantiles: dict[str, int]  # of tokens per document
    frequent: list[tuple[str, float]]  # tokens and their share in percent
    ranks: list[tuple[float, float]]  # rank of a token and its count
    counted: int  # tokens behind `frequent` and `ranks`
    examples: list[list[str]]  # validation documents as tokens
    texts: list[str]  # validation documents as text
    true_entropy: float | None  # nats per token
    rows: list[dict[str, Any]] = field(default_factory=list)  # of the mask plan

    @property
    def rank_chart(self) -> Chart:
        """Token count over rank, on logarithmic axes."""
        return Chart("Token frequency", "rank", "occurrences", [Series("tokens", self.ranks)], log=True)

    def split_rows(self) -> list[list[str]]:
        """Rows of the table of splits."""
        keys = ("documents", "tokens", "bytes")
        return [[name, *(f"{split.get(key, 0):,}" for key in keys)] for name, split in self.manifest["splits"].items()]


def summarize_dataset(folder: Path) -> DatasetSummary:
    """Summary of shards, or of a mask plan together with its shards."""
    manifest, plan = read_manifest(folder), None
    if manifest["kind"] == "mask_plan":
        plan, folder = folder, Path(os.path.normpath(open_base_shards(folder, manifest, None)))
        manifest = read_manifest(folder)
    verify(folder, manifest)
    tokenizer = verify_tokenizer(folder, manifest)
    files = [TokenFile(folder / name) for name in split_files(manifest, "train")]
    documents = validation_documents(folder, manifest)
    counts, counted = token_counts(files, tokenizer)
    order = np.argsort(-counts, kind="stable")
    texts = [tokenizer.decode([i for i in ids if i != tokenizer.eos_id]) for ids in documents]
    lengths = np.concatenate([np.diff(file.offsets) for file in files])
    return DatasetSummary(
        path=folder,
        manifest=manifest,
        lengths=histogram(lengths),
        quantiles={name: int(np.quantile(lengths, q, method="nearest")) for name, q in QUANTILES.items()},
        frequent=[
            (token_text(tokenizer, int(i)).replace("\n", "⏎").replace(" ", "␣"), 100 * counts[i] / counted)
            for i in order[:FREQUENT]
            if counts[i]
        ],
        ranks=[(float(rank), float(counts[order[rank - 1]])) for rank in log_ranks(int((counts > 0).sum()))],
        counted=counted,
        examples=[[token_text(tokenizer, i) for i in ids] for ids in documents[:EXAMPLES]],
        texts=texts,
        true_entropy=true_entropy(manifest, documents, texts),
        rows=describe_mask_rows(plan, verify_tokenizer(plan, read_manifest(plan)), "train", 0, 1) if plan else [],
    )


def validation_documents(folder: Path, manifest: dict[str, Any]) -> list[list[int]]:
    """The first validation documents, end tokens included; training documents if there is no validation split."""
    try:
        names = split_files(manifest, "val")
    except BertGPTError:
        names = split_files(manifest, "train")
    file = TokenFile(folder / names[0])
    return [file.row(number).tolist() for number in range(min(len(file), VALIDATION_DOCUMENTS))]


def token_counts(files: Sequence[TokenFile], tokenizer: Tokenizer) -> tuple[NDArray[Any], int]:
    """How often each id occurs among the first `MAX_COUNTED` tokens, and how many tokens these are."""
    counts, counted = np.zeros(tokenizer.max_id + 1, np.int64), 0
    for file in files:
        ids = file.flat[: MAX_COUNTED - counted]
        counts += np.bincount(ids, minlength=len(counts))[: len(counts)]
        counted += len(ids)
    return counts, counted


def histogram(lengths: NDArray[Any]) -> list[tuple[str, float]]:
    """Number of documents per bin of length. Bin widths are round; the last bin holds all longer documents."""
    high = float(np.quantile(lengths, 0.99)) + 1
    width = max(1, next(n * 10**e for e in range(12) for n in (1, 2, 5) if n * 10**e * BINS >= high))
    bins = np.minimum(lengths // width, BINS - 1)
    counts = np.bincount(bins.astype(np.int64), minlength=1)
    last = len(counts) - 1
    return [
        (f"{i * width:,} or more" if i == last == BINS - 1 else f"{i * width:,} to {(i + 1) * width - 1:,}", float(n))
        for i, n in enumerate(counts)
    ]


def log_ranks(most: int) -> list[int]:
    """Ranks up to `most`, evenly spaced on a logarithmic scale."""
    return sorted({max(1, min(most, round(10**e))) for e in np.linspace(0, math.log10(max(most, 1)), 60)})


def true_entropy(manifest: dict[str, Any], documents: Sequence[list[int]], texts: Sequence[str]) -> float | None:
    """True negative log-likelihood of tinyworld documents in nats per token; None for any other corpus."""
    if [source["name"] for source in manifest["sources"]] != ["tinyworld"]:
        return None
    world = World(int(manifest["sources"][0]["sha256"].removeprefix("seed ")))
    try:
        nats = -sum(world.parse(text).logp for text in texts)
    except NotInLanguage:  # the tokenizer changes the text, for example to lower case
        return None
    return nats / sum(map(len, documents))


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token as text with its space, or the name of a special token."""
    return tokenizer.tokens[token] if token in tokenizer.special_ids else tokenizer.decode([token])
