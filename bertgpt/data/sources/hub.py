"""Datasets on the hub: which files a revision has, and how parts of them are fetched.

`huggingface_hub` does the talking, so its variables are honoured: HF_TOKEN, HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE. What
lies whole in its cache is read there.
"""

import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from bertgpt.data.sources.http import TRANSIENT, Fetch, TransientError, retrying_fetch, with_retries
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import cache_folder, write_json

T = TypeVar("T")
PREFIX = "hf://datasets/"
COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT = 60.0  # seconds without an answer
LARGE = 64_000_000  # bytes: a server that sends a whole file instead of a part may send so many


@dataclass(frozen=True)
class HubFile:
    """A file of a revision."""

    path: str
    bytes: int


def address(repository: str, commit: str, path: str) -> str:
    """How a file is named here."""
    return f"{PREFIX}{repository}@{commit}/{path}"


def parse_address(name: str) -> tuple[str, str, str]:
    """Repository, commit and path of an address."""
    repository, _, rest = name.removeprefix(PREFIX).partition("@")
    commit, _, path = rest.partition("/")
    return repository, commit, path


def commit_of(repository: str, revision: str) -> str:
    """The commit that a revision is now."""
    if COMMIT.fullmatch(revision):
        return revision
    kept = hub_folder(repository) / "refs" / revision
    with translate_hub_errors(f"{repository}@{revision}", repository, revision):
        from huggingface_hub import HfApi
        from huggingface_hub.errors import OfflineModeIsEnabled

        try:
            found = call_with_retries(lambda: HfApi().dataset_info(repository, revision=revision), repository)
            return str(found.sha)
        except OfflineModeIsEnabled:
            if kept.is_file():
                return kept.read_text(encoding="utf-8").strip()
            raise


def files_of(repository: str, commit: str, pattern: str) -> list[HubFile]:
    """The files of a commit whose paths match."""
    base = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]

    def ask() -> list[dict[str, Any]]:
        with translate_hub_errors(f"{repository}@{commit[:12]}", repository, commit):
            return call_with_retries(lambda: listing(repository, commit, base), repository)

    entries = cached(repository, commit, f"files-{base}", ask)
    found = [HubFile(**entry) for entry in entries if fnmatchcase(entry["path"], pattern)]
    if not found:
        raise BertGPTError("BG211", f"{repository} has no file {pattern} at {commit[:12]}")
    return sorted(found, key=lambda file: file.path)


def cached(repository: str, commit: str, name: str, ask: Callable[[], T]) -> T:
    """What is true of a commit, which never changes: it is asked once."""
    memory = cache_folder() / "hub" / repository.replace("/", "--") / commit / f"{name.replace('/', '--')}.json"
    with suppress(OSError, ValueError):
        found: T = json.loads(memory.read_text(encoding="utf-8"))
        return found
    found = ask()
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, found)
    return found


def listing(repository: str, commit: str, base: str) -> list[dict[str, Any]]:
    """Every file below a folder."""
    from huggingface_hub import HfApi, RepoFile

    tree = HfApi().list_repo_tree(repository, base or None, recursive=True, revision=commit, repo_type="dataset")
    files = (entry for entry in tree if isinstance(entry, RepoFile))
    return [asdict(HubFile(file.path, file.size)) for file in files]


def local_copy(name: str, size: int) -> str | None:
    """Where the hub's own cache has a file whole."""
    from huggingface_hub import try_to_load_from_cache

    repository, commit, path = parse_address(name)
    found = try_to_load_from_cache(repository, path, revision=commit, repo_type="dataset")
    return found if isinstance(found, str) and Path(found).stat().st_size == size else None


def fetch_of(name: str, size: int) -> Fetch:
    """How parts of a file are fetched."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]

    repository, commit, path = parse_address(name)
    url = hf_hub_url(repository, path, repo_type="dataset", revision=commit)

    def fetch(begin: int, stop: int) -> bytes:
        headers = {**build_hf_headers(), "Range": f"bytes={begin}-{stop - 1}"}
        with translate_hub_errors(name, repository, commit):
            answer = get_session().get(url, headers=headers, timeout=TIMEOUT)
        status = answer.status_code
        if status in TRANSIENT:
            raise TransientError(f"the server says {status}", seconds(answer.headers.get("Retry-After", "")))
        if status in (401, 403):
            raise access_denied(repository)
        if status == 200 and size <= LARGE and len(answer.content) == size:
            return bytes(answer.content[begin:stop])
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if status != 206 or (total.isdecimal() and int(total) != size):
            cause = f"the server says {status}, {total or 'no'} bytes; the list of files says {size:,}"
            raise BertGPTError("BG305", "this file is not what the list of files says", path=name, cause=cause)
        return bytes(answer.content)

    return retrying_fetch(fetch, name)


def seconds(text: str) -> float:
    """How long a server wants us to wait."""
    return float(text) if text.isdecimal() else 0.0


def call_with_retries(call: Callable[[], T], repository: str) -> T:
    """Ask again where the hub is busy; what it refuses for good is an error at once."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    def once() -> T | Exception:
        try:
            return call()
        except (HFValidationError, OfflineModeIsEnabled) as error:
            return error
        except HfHubHTTPError as error:
            if getattr(error.response, "status_code", 0) in TRANSIENT:
                raise
            return error

    found = with_retries(once, repository, attempts=4)
    if isinstance(found, Exception):
        raise found
    return found


@contextmanager
def translate_hub_errors(what: str, repository: str, revision: str) -> Iterator[None]:
    """The errors of the client in our words."""
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
        folder = hub_folder(repository)
        known = sorted(path.name[:12] for path in folder.glob("snapshots/*"))
        raise BertGPTError(
            "BG407",
            f"the hub is offline (HF_HUB_OFFLINE), and {what} is not all here",
            cause=f"cached revisions in {folder}: {', '.join(known) or 'none'}",
            hint="unset HF_HUB_OFFLINE, or name local files: bertgpt shard 'FOLDER/*.parquet'",
        ) from None
    except GatedRepoError:
        raise access_denied(repository) from None
    except RevisionNotFoundError:
        raise BertGPTError("BG211", f"{repository} has no revision {revision}") from None
    except (RepositoryNotFoundError, HFValidationError):
        hint = "is it private? HF_TOKEN gives access"
        raise BertGPTError("BG211", f"there is no dataset {repository} on the hub", hint=hint) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise access_denied(repository) from None
        raise BertGPTError("BG408", "the hub refuses to answer", path=what, cause=f"it says {status}") from None


def access_denied(repository: str) -> BertGPTError:
    """The hub wants to know who asks."""
    hint = f"accept its terms on the page of {repository}, and set HF_TOKEN"
    return BertGPTError("BG409", f"the hub does not let us read {repository}", hint=hint)


def hub_folder(repository: str) -> Path:
    """Where the hub's own cache keeps a dataset."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"datasets--{repository.replace('/', '--')}"


# ---------------------------------------------------------------------------------------- through `datasets`


def split_files(repository: str, commit: str, subset: str | None) -> dict[str, list[str]]:
    """Which files belong to which split, as `datasets` understands the repository."""

    def ask() -> dict[str, list[str]]:
        from datasets import load_dataset_builder

        with (
            translate_hub_errors(f"{repository}@{commit[:12]}", repository, commit),
            translate_datasets_errors(repository),
        ):
            builder = load_dataset_builder(repository, subset, revision=commit)
        prefix = f"{PREFIX}{repository}@"
        return {
            str(split): [parse_address(str(file))[2] for file in files if str(file).startswith(prefix)]
            for split, files in (builder.config.data_files or {}).items()
        }

    return cached(repository, commit, f"splits-{subset or ''}", ask)


def stream_dataset(repository: str, commit: str, subset: str | None, split: str) -> Any:
    """A split that is read from its beginning."""
    from datasets import load_dataset

    with translate_hub_errors(repository, repository, commit), translate_datasets_errors(repository):
        return load_dataset(repository, subset, split=split, revision=commit, streaming=True)


@contextmanager
def translate_datasets_errors(repository: str) -> Iterator[None]:
    """What `datasets` cannot make sense of."""
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        yield
    except (BertGPTError, KeyboardInterrupt):
        raise
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOENT, errno.EPERM, errno.ENOTDIR):
            hint = "set HF_HOME to a folder that can be written in"
            where = error.filename or os.environ.get("HF_HOME")
            raise BertGPTError("BG404", "the hub's cache cannot be written", path=where, hint=hint) from None
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled from None
        if isinstance(error, FileNotFoundError):  # no such dataset, revision or file
            raise BertGPTError("BG211", f"{repository} cannot be read", cause=first_line(error)) from None
        hint = "without a network, name files that are here: as SOURCE, or with --data"
        raise BertGPTError("BG408", f"{repository} cannot be reached", cause=first_line(error), hint=hint) from None
    except (ValueError, RuntimeError) as error:
        hint = "see --subset and --split"
        raise BertGPTError("BG211", f"{repository} cannot be read", cause=first_line(error), hint=hint) from None


def first_line(error: Exception) -> str:
    """The gist of a long message."""
    return str(error).split("\n")[0][:300]
