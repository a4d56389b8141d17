"""Sources that are elsewhere: corpora known by name, datasets on the hub, addresses. Found, and opened."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from bertgpt.config.corpora import CORPORA, Corpus
from bertgpt.data.sources import http, hub
from bertgpt.data.sources.source import FORMATS, DatasetSelector, Source, detect_format
from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr

SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
VERSIONS = ("ETag", "etag", "md5Hash", "Content-MD5", "generation", "Last-Modified", "LastModified", "mtime", "created")


# --------------------------------------------------------------------------------------------------- found


def catalog_sources(name: str, subset: str | None) -> list[Source]:
    """The files of a corpus known by name."""
    corpus = CORPORA[name]
    patterns = corpus.patterns(subset)
    commit = hub.commit_of(corpus.repository, corpus.revision) if corpus.repository else ""
    found: list[Source] = []
    for split, pattern in patterns.items():
        if corpus.repository:
            files = hub.files_of(corpus.repository, commit, pattern)
            sources = [hub_source(corpus.repository, commit, file, name) for file in files]
        else:
            sources = [replace(source, corpus=name) for source in url_sources(pattern)]
        found += [with_catalog_entry(source, corpus, split, patterns) for source in sources]
    return found


def with_catalog_entry(source: Source, corpus: Corpus, split: str, patterns: Mapping[str, str]) -> Source:
    """A file with what the catalogue says of it."""
    splits = tuple(sorted(patterns)) if len(patterns) > 1 else ()
    return replace(
        source,
        split=split,
        splits=splits,
        document_start=corpus.document_start,
        rows_per_document=corpus.rows_per_document,
        joiner=corpus.joiner,
    )


def hub_source(repository: str, commit: str, file: hub.HubFile, corpus: str) -> Source:
    """A file of a dataset on the hub."""
    path = PurePosixPath(file.path)
    format_, compression = detect_format(path) or ("", None)
    version = f"{repository}@{commit}/{file.path}"
    address = hub.address(repository, commit, file.path)
    return Source(path.name, file.bytes, format_, compression, address, revision=version, corpus=corpus)


def hub_dataset(name: str, wanted: DatasetSelector) -> list[Source]:
    """Any dataset on the hub: hf:org/name, or hf:org/name@revision."""
    repository, _, revision = name.removeprefix("hf:").partition("@")
    commit = hub.commit_of(repository, revision or wanted.revision or "main")
    split_files = hub.split_files(repository, commit, wanted.subset)
    if wanted.split is not None:
        if wanted.split not in split_files:
            cause = f"the splits are {', '.join(split_files)}"
            near = did_you_mean(wanted.split, split_files)
            raise BertGPTError("BG211", f"{repository} has no split {short_repr(wanted.split)}", cause=cause, hint=near)
        chosen = {wanted.split: "train"}
    else:
        chosen = {split: SPLITS[split] for split in split_files if split in SPLITS} or dict.fromkeys(
            split_files, "train"
        )
    sizes = {file.path: file for file in hub.files_of(repository, commit, "*")}
    splits = tuple(sorted(set(chosen.values())))
    found: list[Source] = []
    for theirs, ours in chosen.items():
        files = [sizes[path] for path in split_files[theirs]]
        if all(detect_format(PurePosixPath(file.path)) for file in files):
            sources = [hub_source(repository, commit, file, repository) for file in files]
        else:
            sources = [streaming_source(repository, commit, wanted.subset, theirs, sum(file.bytes for file in files))]
        found += [replace(source, split=ours, splits=splits if len(splits) > 1 else ()) for source in sources]
    return found


def streaming_source(repository: str, commit: str, subset: str | None, split: str, size: int) -> Source:
    """A split whose files are of a kind that only `datasets` can read."""
    version = f"{repository}@{commit}/{subset or ''}:{split}"
    parts = hub.stream_dataset(repository, commit, subset, split).num_shards
    path = f"{hub.PREFIX}{version}"
    name = f"{repository.rpartition('/')[2]}-{split}"
    return Source(name, size, "stream", path=path, revision=version, corpus=repository, num_shards=parts)


def url_sources(address: str) -> list[Source]:
    """A file, a glob or a folder at an address."""
    files, path = http.filesystem(address)
    if any(sign in path for sign in "*[") or path.endswith("/"):
        found = http.with_retries(lambda: files.find(path) if path.endswith("/") else files.glob(path), address, 3)
        paths = sorted(str(files.unstrip_protocol(each)) for each in found if detect_format(PurePosixPath(str(each))))
    else:
        paths = [address]
    if not paths:
        raise BertGPTError("BG211", f"nothing that can be read is at {address}")
    return [describe_url(path) for path in paths]


def describe_url(address: str) -> Source:
    """A file at an address with its size, kind and version."""
    path = PurePosixPath(address.partition("://")[2].partition("?")[0])
    found = detect_format(path)
    if found is None:
        cause = f"the kinds are {', '.join(FORMATS)}, each also with .gz or .zst"
        raise BertGPTError("BG211", f"{address} is of no known kind", cause=cause)
    facts = facts_of(address)
    return Source(path.name, facts["size"], *found, address, revision=version_of(facts))


def facts_of(address: str) -> dict[str, Any]:
    """What a server says of a file."""
    files, path = http.filesystem(address)
    try:
        facts: dict[str, Any] = http.with_retries(lambda: files.info(path), address, 3)
    except FileNotFoundError:
        raise BertGPTError("BG211", f"there is nothing at {address}") from None
    if not facts.get("size"):
        raise BertGPTError("BG313", "the server does not say how large this file is", path=address)
    return facts


def version_of(facts: Mapping[str, Any]) -> str:
    """What changes when a file changes."""
    known = [f"{name} {facts[name]}" for name in VERSIONS if facts.get(name)]
    return known[0] if known else f"{facts['size']} bytes"


# -------------------------------------------------------------------------------------------------- opened


def open_source(source: Source, stretches: Sequence[tuple[int, int]] = ()) -> io.RawIOBase:
    """A file that is read by ranges, unless the hub's cache has it here."""
    if source.path.startswith(hub.PREFIX):
        copy = hub.local_copy(source.path, source.bytes)
        if copy is not None:
            return Path(copy).open("rb", buffering=0)
        fetch = hub.fetch_of(source.path, source.bytes)
    else:
        now = version_of(facts_of(source.path))
        if now != source.revision:
            cause = f"it was {source.revision}, and is {now}"
            raise BertGPTError("BG305", "this file has changed since the plan was made", path=source.path, cause=cause)
        fetch = http.fetch_of(source.path)
    return http.RangeReader(fetch, source.bytes, stretches)
