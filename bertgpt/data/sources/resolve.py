"""Resolve source names to sources: local files, folders and globs, named corpora, Hub datasets, URLs, tinyworld."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from bertgpt.config.corpora import CORPORA
from bertgpt.data.sources.files import local_sources
from bertgpt.data.sources.remote import catalog_sources, hub_dataset, url_sources
from bertgpt.data.sources.source import DatasetSelector, Source
from bertgpt.utils.errors import BertGPTError


def resolve_sources(names: Sequence[str], selector: DatasetSelector | None = None) -> list[Source]:
    """Resolve names, each perhaps with a weight (`NAME=0.25`), to sources in canonical order.

    Raises BertGPTError for a name that resolves to nothing and for a source that is given twice.
    """
    sources: dict[str, Source] = {}
    for name_and_weight in names:
        name, weight = parse_weight(name_and_weight)
        for source in resolve_one(name, selector or DatasetSelector()):
            key = f"tinyworld:{source.seed}" if source.format == "tinyworld" else source.path
            key = key if source.is_remote or not source.path else str(Path(source.path).resolve())
            if key in sources:
                raise BertGPTError("BG211", f"source given twice: {source.path or name}")
            sources[key] = replace(source, weight=weight)
    return canonical_order(sources.values())


def canonical_order(sources: Iterable[Source]) -> list[Source]:
    """Sort by file name; sources of the same name by content, so that folders and argument order do not matter."""
    sources = list(sources)
    name_counts = Counter(source.name for source in sources)
    return sorted(sources, key=lambda s: (s.name, (s.revision or s.sha256) if name_counts[s.name] > 1 else "", s.split))


def resolve_one(name: str, selector: DatasetSelector) -> list[Source]:
    """Resolve a single name."""
    if not os.path.exists(name):  # noqa: PTH110 - Path raises for an impossible name
        if name.partition(":")[0] == "tinyworld":
            return [tinyworld_source(name)]
        if name.startswith("hf:"):
            return hub_dataset(name, selector)
        if name in CORPORA:
            return catalog_sources(name, selector.subset)
        if "://" in name:
            return url_sources(name)
    return local_sources(name)


def tinyworld_source(name: str) -> Source:
    """The built-in corpus: tinyworld, or tinyworld:SEED."""
    seed = name.partition(":")[2] or "0"
    if not seed.isdecimal():
        hint = "use tinyworld, or tinyworld:SEED with an integer SEED"
        raise BertGPTError("BG211", f"invalid tinyworld seed: {name}", hint=hint)
    return Source(name, 0, "tinyworld", seed=int(seed))


def parse_weight(name: str) -> tuple[str, float]:
    """Split `SOURCE=0.25` into the source and the fraction of its documents to keep; 1.0 without a weight."""
    source, _, weight = name.rpartition("=")
    has_query = "?" in name  # of a URL, where = has another meaning
    if not source or has_query or os.path.exists(name) or not re.fullmatch(r"[0-9.eE+-]+", weight):  # noqa: PTH110
        return name, 1.0
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        cause = "a weight must be above 0 and at most 1: documents are dropped, never repeated"
        raise BertGPTError("BG204", f"invalid weight of {source}: {weight}", cause=cause)
    return source, value


def remote_names(names: Iterable[str]) -> list[str]:
    """The names that stand for remote data: named corpora, Hub datasets and URLs."""
    bare_names = {name: parse_weight(name)[0] for name in names}
    remote = [name for name, bare in bare_names.items() if bare in CORPORA or bare.startswith("hf:") or "://" in bare]
    return [name for name in remote if not os.path.exists(bare_names[name])]  # noqa: PTH110


def local_bytes(names: Iterable[str]) -> int:
    """Total size of the local files, without looking at their format: a quick estimate."""
    paths = [path for name in names for path in glob.glob(parse_weight(name)[0], recursive=True)]  # noqa: PTH207
    files = [file for path in map(Path, paths) for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())
