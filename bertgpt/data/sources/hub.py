"""Datasets on the Hugging Face Hub: list the files of a revision, and fetch byte ranges of them.

Requests go through `huggingface_hub`, so HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are honored. A file that is
complete in its cache is read from there.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from bertgpt.data.sources.http import TRANSIENT_STATUS, Fetch, TransientError, retrying_fetch, with_retries
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import cache_folder, write_json
from bertgpt.utils.json_files import parse_json

T = TypeVar("T")
PREFIX = "hf://datasets/"
COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT = 60.0  # seconds without a response
CACHE_ERRORS = (errno.EACCES, errno.EROFS, errno.ENOENT, errno.EPERM, errno.ENOTDIR)  # of files on this machine
MAX_FULL_RESPONSE = 64_000_000  # bytes: up to this size a server may send the whole file instead of a range


@dataclass(frozen=True)
class HubFile:
    """A file of a revision."""

    path: str
    bytes: int


def address(repository: str, commit: str, path: str) -> str:
    """The hf:// address of a file."""
    return f"{PREFIX}{repository}@{commit}/{path}"


def parse_address(name: str) -> tuple[str, str, str]:
    """Repository, commit and path of an hf:// address."""
    repository, _, rest = name.removeprefix(PREFIX).partition("@")
    commit, _, path = rest.partition("/")
    return repository, commit, path


def resolve_commit(repository: str, revision: str) -> str:
    """The commit that a branch, tag or other revision points to now."""
    if COMMIT.fullmatch(revision):
        return revision
    ref = hub_cache_folder(repository) / "refs" / revision
    with translate_hub_errors(f"{repository}@{revision}", repository, revision):
        from huggingface_hub import HfApi
        from huggingface_hub.errors import OfflineModeIsEnabled

        try:
            info = call_with_retries(lambda: HfApi().dataset_info(repository, revision=revision), repository)
            return str(info.sha)
        except OfflineModeIsEnabled:
            if ref.is_file():
                return ref.read_text(encoding="utf-8").strip()
            raise


def list_files(repository: str, commit: str, pattern: str) -> list[HubFile]:
    """The files of a commit whose paths match a glob pattern, sorted by path."""
    base = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]

    def request() -> list[dict[str, Any]]:
        with translate_hub_errors(f"{repository}@{commit[:12]}", repository, commit):
            return call_with_retries(lambda: list_tree(repository, commit, base), repository)

    entries = cached(repository, commit, f"files-{base}", request)
    files = [HubFile(**entry) for entry in entries if fnmatchcase(entry["path"], pattern)]
    if not files:
        raise BertGPTError("BG211", f"no file of {repository} matches {pattern}", cause=f"revision {commit[:12]}")
    return sorted(files, key=lambda file: file.path)


def cached(repository: str, commit: str, name: str, request: Callable[[], T]) -> T:
    """Request metadata of a commit once and cache it on disk, since a commit never changes."""
    path = cache_folder() / "hub" / repository.replace("/", "--") / commit / f"{name.replace('/', '--')}.json"
    with suppress(OSError, ValueError):
        stored: T = parse_json(path.read_text(encoding="utf-8"))
        return stored
    result = request()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, result)
    return result


def list_tree(repository: str, commit: str, base: str) -> list[dict[str, Any]]:
    """All files below a folder of the repository."""
    from huggingface_hub import HfApi, RepoFile

    tree = HfApi().list_repo_tree(repository, base or None, recursive=True, revision=commit, repo_type="dataset")
    files = (entry for entry in tree if isinstance(entry, RepoFile))
    return [asdict(HubFile(file.path, file.size)) for file in files]


def cached_path(name: str, size: int) -> str | None:
    """Path of a file in the cache of `huggingface_hub`; None if it is not there or incomplete."""
    from huggingface_hub import try_to_load_from_cache

    repository, commit, path = parse_address(name)
    local = try_to_load_from_cache(repository, path, revision=commit, repo_type="dataset")
    return local if isinstance(local, str) and Path(local).stat().st_size == size else None


def range_fetcher(name: str, size: int) -> Fetch:
    """A function that fetches byte ranges of a file on the Hub."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]

    repository, commit, path = parse_address(name)
    url = hf_hub_url(repository, path, repo_type="dataset", revision=commit)

    def fetch(start: int, stop: int) -> bytes:
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}"}
        with translate_hub_errors(name, repository, commit):
            response = get_session().get(url, headers=headers, timeout=TIMEOUT)
        status = response.status_code
        if status in TRANSIENT_STATUS:
            seconds = response.headers.get("Retry-After", "")
            raise TransientError(f"HTTP status {status}", float(seconds) if seconds.isdecimal() else 0.0)
        if status in (401, 403):
            raise access_denied(repository)
        if status == 200 and size <= MAX_FULL_RESPONSE and len(response.content) == size:
            return bytes(response.content[start:stop])
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        if status != 206 or (total.isdecimal() and int(total) != size):
            cause = f"HTTP status {status}, {total or 'no'} bytes; the file listing has {size:,} bytes"
            raise BertGPTError("BG305", "file differs from the file listing", path=name, cause=cause)
        return bytes(response.content)

    return retrying_fetch(fetch, name)


def call_with_retries(call: Callable[[], T], repository: str) -> T:
    """Call the client, with retries for transient errors only."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    def call_once() -> T | Exception:
        try:
            return call()
        except HfHubHTTPError as error:
            if getattr(error.response, "status_code", 0) in TRANSIENT_STATUS:
                raise
            return error
        except (ValueError, RuntimeError, OfflineModeIsEnabled) as error:  # names that are wrong, also to `datasets`
            return error
        except OSError as error:
            if error.errno not in CACHE_ERRORS:
                raise
            return error

    result = with_retries(call_once, repository, attempts=4)
    if isinstance(result, Exception):
        raise result
    return result


@contextmanager
def translate_hub_errors(location: str, repository: str, revision: str) -> Iterator[None]:
    """Turn errors of `huggingface_hub` into BertGPTErrors."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except OfflineModeIsEnabled:
        folder = hub_cache_folder(repository)
        revisions = sorted(path.name[:12] for path in folder.glob("snapshots/*"))
        raise BertGPTError(
            "BG407",
            f"HF_HUB_OFFLINE is set and {location} is not fully cached",
            cause=f"cached revisions in {folder}: {', '.join(revisions) or 'none'}",
            hint="unset HF_HUB_OFFLINE, or use local files: bertgpt shard 'FOLDER/*.parquet'",
        ) from None
    except GatedRepoError:
        raise access_denied(repository) from None
    except RevisionNotFoundError:
        raise BertGPTError("BG211", f"no such revision of {repository}: {revision}") from None
    except (RepositoryNotFoundError, HFValidationError):
        hint = "if it is private, set HF_TOKEN"
        raise BertGPTError("BG211", f"no such dataset on the Hub: {repository}", hint=hint) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise access_denied(repository) from None
        raise BertGPTError(
            "BG408", "request refused by the Hub", path=location, cause=f"HTTP status {status}"
        ) from None


def access_denied(repository: str) -> BertGPTError:
    """The error for a gated or private repository."""
    hint = f"accept its terms on the page of {repository}, and set HF_TOKEN"
    return BertGPTError("BG409", f"access denied by the Hub: {repository}", hint=hint)


def hub_cache_folder(repository: str) -> Path:
    """Folder of a dataset in the cache of `huggingface_hub`."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"datasets--{repository.replace('/', '--')}"


# ---------------------------------------------------------------------------------------- through `datasets`


def split_files(repository: str, commit: str, subset: str | None) -> dict[str, list[str]]:
    """The files of each split, as `datasets` resolves them."""

    def request() -> dict[str, list[str]]:
        from datasets import load_dataset_builder

        with (
            translate_hub_errors(f"{repository}@{commit[:12]}", repository, commit),
            translate_datasets_errors(repository),
        ):
            builder = call_with_retries(lambda: load_dataset_builder(repository, subset, revision=commit), repository)
        prefix = f"{PREFIX}{repository}@"
        return {
            str(split): [parse_address(str(file))[2] for file in files if str(file).startswith(prefix)]
            for split, files in (builder.config.data_files or {}).items()
        }

    return cached(repository, commit, f"splits-{subset or ''}", request)


def stream_dataset(repository: str, commit: str, subset: str | None, split: str) -> Any:
    """Stream a split through `datasets`."""
    from datasets import load_dataset

    with translate_hub_errors(repository, repository, commit), translate_datasets_errors(repository):
        return load_dataset(repository, subset, split=split, revision=commit, streaming=True)


@contextmanager
def translate_datasets_errors(repository: str) -> Iterator[None]:
    """Turn errors of `datasets` into BertGPTErrors."""
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        yield
    except (BertGPTError, KeyboardInterrupt):
        raise
    except OSError as error:
        if error.errno in CACHE_ERRORS:
            hint = "set HF_HOME to a writable folder"
            folder = error.filename or os.environ.get("HF_HOME")
            raise BertGPTError("BG404", "cannot write to the Hub cache", path=folder, hint=hint) from None
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled from None
        if isinstance(error, FileNotFoundError):  # no such dataset, revision or file
            raise BertGPTError("BG211", f"cannot read {repository}", cause=first_line(error)) from None
        hint = "without a network, use local files as SOURCE or with --data"
        raise BertGPTError("BG408", f"cannot reach {repository}", cause=first_line(error), hint=hint) from None
    except (ValueError, RuntimeError) as error:
        hint = "see --subset and --split"
        raise BertGPTError("BG211", f"cannot read {repository}", cause=first_line(error), hint=hint) from None


def first_line(error: Exception) -> str:
    """The first line of a long message."""
    return str(error).split("\n")[0][:300]
