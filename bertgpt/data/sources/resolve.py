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
    """The sources that are meant, in canonical order: by name, then by content."""
    sources: dict[str, Source] = {}
    for name in names:
        name, share = parse_weight(name)
        for source in resolve_one(name, selector or DatasetSelector()):
            key = f"tinyworld:{source.seed}" if source.format == "tinyworld" else source.path
            key = key if source.is_remote or not source.path else str(Path(source.path).resolve())
            if key in sources:
                raise BertGPTError("BG211", f"{source.path or name} is named twice")
            sources[key] = replace(source, weight=share)
    return in_order(sources.values())


def in_order(sources: Iterable[Source]) -> list[Source]:
    """Canonical order: by name, then by content."""
    sources = list(sources)
    namesakes = Counter(source.name for source in sources)
    return sorted(sources, key=lambda s: (s.name, (s.revision or s.sha256) if namesakes[s.name] > 1 else "", s.split))


def local_bytes(names: Iterable[str]) -> int:
    """How large the files are that are here, found at once."""
    paths = [path for name in names for path in glob.glob(parse_weight(name)[0], recursive=True)]  # noqa: PTH207
    files = [file for path in map(Path, paths) for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())


def parse_weight(name: str) -> tuple[str, float]:
    """SOURCE=0.25 is a quarter of its documents."""
    source, _, share = name.rpartition("=")
    query = "?" in name  # of an address, where = means something else
    if not source or query or os.path.exists(name) or not re.fullmatch(r"[0-9.eE+-]+", share):  # noqa: PTH110
        return name, 1.0
    try:
        value = float(share)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        cause = f"{share} is not above 0 and at most 1: documents are left out, never repeated"
        raise BertGPTError("BG204", f"the weight of {source} cannot be taken", cause=cause)
    return source, value


def remote_names(names: Iterable[str]) -> list[str]:
    """Those of the names that mean something elsewhere."""
    plain = {name: parse_weight(name)[0] for name in names}
    there = [name for name, bare in plain.items() if bare in CORPORA or bare.startswith("hf:") or "://" in bare]
    return [name for name in there if not os.path.exists(plain[name])]  # noqa: PTH110


def resolve_one(name: str, wanted: DatasetSelector) -> list[Source]:
    """What a single name stands for."""
    if not os.path.exists(name):  # noqa: PTH110 - a Path of an impossible name raises
        if name.partition(":")[0] == "tinyworld":
            return [tinyworld_source(name)]
        if name in CORPORA or name.startswith("hf:"):
            return hub_dataset(name, wanted) if name.startswith("hf:") else catalog_sources(name, wanted.subset)
        if "://" in name:
            return url_sources(name)
    return local_sources(name)


def tinyworld_source(name: str) -> Source:
    """The built-in world, or another one by its seed."""
    seed = name.partition(":")[2] or "0"
    if not seed.isdecimal():
        raise BertGPTError("BG211", f"{name} is no world", hint="tinyworld, or tinyworld:SEED with a whole number")
    return Source(name, 0, "tinyworld", seed=int(seed))
