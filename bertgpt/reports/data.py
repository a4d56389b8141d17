"""What models were trained on: how long documents are, which tokens occur how often, examples; and of a corpus whose
probabilities are known, the loss that no model comes below."""

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
from bertgpt.tinyworld.grammar import NotInLanguage
from bertgpt.tinyworld.world import World
from bertgpt.utils.errors import BertGPTError

MOST_IDS = 50_000_000  # that are counted
FLOOR_DOCUMENTS = 300  # whose true probability is asked for
EXAMPLES, BINS, COMMON = 2, 12, 20


@dataclass
class DatasetSummary:
    """Facts of shards, and of a plan over them if there is one."""

    path: Path
    manifest: dict[str, Any]
    lengths: list[tuple[str, float]]  # documents by their length
    quantiles: dict[str, int]
    common: list[tuple[str, float]]  # tokens and their share
    ranks: list[tuple[float, float]]  # how often the n-th token occurs
    counted: int  # ids, of which `common` and `ranks` tell
    examples: list[list[str]]  # documents, as tokens
    texts: list[str]  # held-out documents
    floor: float | None  # nats a token
    rows: list[dict[str, Any]] = field(default_factory=list)  # of the plan


def summarize_dataset(folder: Path) -> DatasetSummary:
    """All of it. A plan is looked at together with its shards."""
    manifest, plan = read_manifest(folder), None
    if manifest["kind"] == "plan":
        plan, folder = folder, Path(os.path.normpath(open_base_shards(folder, manifest, None)))
        manifest = read_manifest(folder)
    verify(folder, manifest)
    tokenizer = verify_tokenizer(folder, manifest)
    files = [TokenFile(folder / name) for name in split_files(manifest, "train")]
    held_out = held_out_of(folder, manifest)
    counts, counted = frequencies(files, tokenizer)
    order = np.argsort(-counts, kind="stable")
    texts = [tokenizer.decode([i for i in ids if i != tokenizer.eos_id]) for ids in held_out]
    lengths = np.concatenate([np.diff(file.offsets) for file in files])
    return DatasetSummary(
        path=folder,
        manifest=manifest,
        lengths=histogram(lengths),
        quantiles={name: int(np.quantile(lengths, q, method="nearest")) for name, q in QUANTILES.items()},
        common=[(spelled(tokenizer, int(i)), counts[i] / counted) for i in order[:COMMON] if counts[i]],
        ranks=[(float(rank), float(counts[order[rank - 1]])) for rank in ranks_of(int((counts > 0).sum()))],
        counted=counted,
        examples=[[spelled(tokenizer, i) for i in ids] for ids in held_out[:EXAMPLES]],
        texts=texts,
        floor=true_entropy(manifest, held_out, texts),
        rows=describe_mask_rows(plan, verify_tokenizer(plan, read_manifest(plan)), "train", 0, 1) if plan else [],
    )


def held_out_of(folder: Path, manifest: dict[str, Any]) -> list[list[int]]:
    """The first held-out documents, with the id that ends each; training ones if none were held out."""
    try:
        names = split_files(manifest, "val")
    except BertGPTError:
        names = split_files(manifest, "train")
    file = TokenFile(folder / names[0])
    return [file.row(number).tolist() for number in range(min(len(file), FLOOR_DOCUMENTS))]


def frequencies(files: Sequence[TokenFile], tokenizer: Tokenizer) -> tuple[NDArray[Any], int]:
    """How often each id occurs in the first ids of all."""
    counts, counted = np.zeros(tokenizer.max_id + 1, np.int64), 0
    for file in files:
        some = file.flat[: MOST_IDS - counted]
        counts += np.bincount(some, minlength=len(counts))[: len(counts)]
        counted += len(some)
    return counts, counted


def histogram(lengths: NDArray[Any]) -> list[tuple[str, float]]:
    """How many documents are how long, in steps that are round; the last takes all that are longer."""
    high = float(np.quantile(lengths, 0.99)) + 1
    width = max(1, next(n * 10**e for e in range(12) for n in (1, 2, 5) if n * 10**e * BINS >= high))
    bins = np.minimum(lengths // width, BINS - 1)
    counts = np.bincount(bins.astype(np.int64), minlength=1)
    last = len(counts) - 1
    return [
        (f"{i * width:,} and more" if i == last == BINS - 1 else f"{i * width:,} to {(i + 1) * width - 1:,}", float(n))
        for i, n in enumerate(counts)
    ]


def ranks_of(kinds: int) -> list[int]:
    """Ranks that are spread evenly on a logarithmic scale."""
    return sorted({max(1, min(kinds, round(10**e))) for e in np.linspace(0, math.log10(max(kinds, 1)), 60)})


def true_entropy(manifest: dict[str, Any], held_out: Sequence[list[int]], texts: Sequence[str]) -> float | None:
    """The true surprise at held-out documents, in nats a token; none for text whose probability nobody knows."""
    if [source["name"] for source in manifest["sources"]] != ["tinyworld"]:
        return None
    world = World(int(manifest["sources"][0]["sha256"].removeprefix("seed ")))
    try:
        nats = -sum(world.read(text).logp for text in texts)
    except NotInLanguage:  # its tokenizer changes the text, as those that know no capitals do
        return None
    return nats / sum(map(len, held_out))


def spelled(tokenizer: Tokenizer, token: int) -> str:
    """A token as people read it: with its space, and the name of one that is no text."""
    return tokenizer.tokens[token] if token in tokenizer.special_ids else tokenizer.decode([token])
