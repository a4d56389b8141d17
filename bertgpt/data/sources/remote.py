"""Remote sources: named corpora, Hub datasets and URLs. Lists their files and opens them."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from bertgpt.config.corpora import CORPORA, Corpus
from bertgpt.data.sources import http, hub
from bertgpt.data.sources.source import DatasetSelector, Source, detect_format, unsupported_format
from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr

SPLIT_NAMES = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
REVISION_KEYS = (  # of fsspec's file info, the most reliable first
    "ETag", "etag", "md5Hash", "Content-MD5", "generation", "Last-Modified", "LastModified", "mtime", "created",
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------- named corpora


def catalog_sources(name: str, subset: str | None) -> list[Source]:
    """The files of a named corpus, all splits."""
    corpus = CORPORA[name]
    patterns = corpus.patterns(subset)
    commit = hub.resolve_commit(corpus.repository, corpus.revision) if corpus.repository else ""
    sources: list[Source] = []
    for split, pattern in patterns.items():
        if corpus.repository:
            files = hub.list_files(corpus.repository, commit, pattern)
            split_sources = [hub_source(corpus.repository, commit, file, name) for file in files]
        else:
            split_sources = [replace(source, corpus=name) for source in url_sources(pattern)]
        sources += [with_catalog_entry(source, corpus, split, patterns) for source in split_sources]
    return sources


def with_catalog_entry(source: Source, corpus: Corpus, split: str, patterns: Mapping[str, str]) -> Source:
    """A file with its split and with how its rows are joined to documents."""
    return replace(
        source,
        split=split,
        splits=tuple(sorted(patterns)) if len(patterns) > 1 else (),
        document_start=corpus.document_start,
        rows_per_document=corpus.rows_per_document,
        joiner=corpus.joiner,
    )


# ----------------------------------------------------------------------------------------------------- Hub datasets


def hub_dataset(name: str, selector: DatasetSelector) -> list[Source]:
    """The files of any dataset on the Hub: hf:org/name, or hf:org/name@revision."""
    repository, _, revision = name.removeprefix("hf:").partition("@")
    commit = hub.resolve_commit(repository, revision or selector.revision or "main")
    split_files = hub.split_files(repository, commit, selector.subset)
    split_names = select_splits(repository, list(split_files), selector.split)
    files_by_path = {file.path: file for file in hub.list_files(repository, commit, "*")}
    splits = tuple(sorted(set(split_names.values())))
    sources: list[Source] = []
    for hub_split, split in split_names.items():
        files = [files_by_path[path] for path in split_files[hub_split]]
        if all(detect_format(PurePosixPath(file.path)) for file in files):
            split_sources = [hub_source(repository, commit, file, repository) for file in files]
        else:
            num_bytes = sum(file.bytes for file in files)
            split_sources = [streaming_source(repository, commit, selector.subset, hub_split, num_bytes)]
        sources += [replace(source, split=split, splits=splits if len(splits) > 1 else ()) for source in split_sources]
    return sources


def select_splits(repository: str, available: list[str], wanted: str | None) -> dict[str, str]:
    """The splits to read, from the Hub's name to train, val or test."""
    if wanted is None:
        known = {split: SPLIT_NAMES[split] for split in available if split in SPLIT_NAMES}
        return known or dict.fromkeys(available, "train")
    if wanted not in available:
        cause, hint = f"the splits are {', '.join(available)}", did_you_mean(wanted, available)
        raise BertGPTError("BG211", f"no such split of {repository}: {short_repr(wanted)}", cause=cause, hint=hint)
    return {wanted: "train"}


def hub_source(repository: str, commit: str, file: hub.HubFile, corpus: str) -> Source:
    """A file of a dataset on the Hub."""
    path = PurePosixPath(file.path)
    format_, compression = detect_format(path) or ("", None)
    address = hub.address(repository, commit, file.path)
    revision = address.removeprefix(hub.PREFIX)
    return Source(path.name, file.bytes, format_, compression, address, revision=revision, corpus=corpus)


def streaming_source(repository: str, commit: str, subset: str | None, split: str, num_bytes: int) -> Source:
    """A split whose files are of a format that only `datasets` can read."""
    address = hub.address(repository, commit, f"{subset or ''}:{split}")
    return Source(
        name=f"{repository.rpartition('/')[2]}-{split}",
        bytes=num_bytes,
        format="stream",
        path=address,
        revision=address.removeprefix(hub.PREFIX),
        corpus=repository,
        num_shards=hub.stream_dataset(repository, commit, subset, split).num_shards,
    )


# ------------------------------------------------------------------------------------------------------------- URLs


def url_sources(url: str) -> list[Source]:
    """The files at a URL: a file, a glob pattern or a folder."""
    fs, path = http.filesystem(url)
    if any(sign in path for sign in "*[") or path.endswith("/"):
        matches = http.with_retries(lambda: fs.find(path) if path.endswith("/") else fs.glob(path), url, 3)
        urls = sorted(str(fs.unstrip_protocol(file)) for file in matches if detect_format(PurePosixPath(str(file))))
    else:
        urls = [url]
    if not urls:
        raise BertGPTError("BG211", f"no readable text file at {url}")
    return [describe_url(file_url) for file_url in urls]


def describe_url(url: str) -> Source:
    """A file at a URL with its size, format and revision."""
    path = PurePosixPath(url.partition("://")[2].partition("?")[0])
    format_and_compression = detect_format(path)
    if format_and_compression is None:
        raise unsupported_format(url)
    info = file_info(url)
    return Source(path.name, info["size"], *format_and_compression, url, revision=file_revision(info))


def file_info(url: str) -> dict[str, Any]:
    """What the server says about a file: its size, ETag and the like."""
    fs, path = http.filesystem(url)
    try:
        info: dict[str, Any] = http.with_retries(lambda: fs.info(path), url, 3)
    except FileNotFoundError:
        raise BertGPTError("BG211", f"no such file: {url}") from None
    if not info.get("size"):
        raise BertGPTError("BG313", "the server does not send the size of this file", path=url)
    return info


def file_revision(info: Mapping[str, Any]) -> str:
    """What changes when the file changes: an ETag, a checksum, a date, or at least the size."""
    known = [f"{key} {info[key]}" for key in REVISION_KEYS if info.get(key)]
    return known[0] if known else f"{info['size']} bytes"


# ---------------------------------------------------------------------------------------------------------- opening


def open_source(source: Source, ranges: Sequence[tuple[int, int]] = ()) -> io.RawIOBase:
    """Open a remote file: by ranges, or from the Hub's cache if it is there.

    Raises BertGPTError if a file at a URL has changed since it was listed.
    """
    if source.path.startswith(hub.PREFIX):
        local = hub.cached_path(source.path, source.bytes)
        if local is not None:
            return Path(local).open("rb", buffering=0)
        fetch = hub.range_fetcher(source.path, source.bytes)
    else:
        revision = file_revision(file_info(source.path))
        if revision != source.revision:
            cause = f"was {source.revision}, is now {revision}"
            raise BertGPTError("BG305", "file changed since it was listed", path=source.path, cause=cause)
        fetch = http.range_fetcher(source.path)
    return http.RangeReader(fetch, source.bytes, ranges)
