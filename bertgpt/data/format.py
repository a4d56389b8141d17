"""Arrow files of ids, and the manifests that vouch for them.

A file is one record batch in the Arrow IPC *file* format, uncompressed: the child buffer of its list column is the
flat stream of ids, the offsets are the index of documents, and both are read through a memory map without a copy. A
folder is whole when it has a manifest: that is written last, and names every file with its size and hash.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.utils.errors import BertGPTError, did_you_mean
from bertgpt.utils.files import cache_folder, sha256_of, write_json
from bertgpt.utils.version import FORMAT_VERSION

FORMAT = "bertgpt"
# The command that writes each kind of artifact.
WRITTEN_BY = {"tokens": "tokenize", "shards": "shard", "plan": "mask", "model": "pretrain", "bin": "export"}
DOCUMENT = pa.binary(16)  # blake2b-128 of the exact UTF-8 bytes


def list_of(dtype: np.dtype[Any]) -> pa.DataType:
    """Lists of numbers that are never null; 64-bit offsets, since others overflow when files are put together."""
    return pa.large_list(pa.field("item", pa.from_numpy_dtype(dtype), nullable=False))


def required(name: str, kind: pa.DataType) -> pa.Field:
    """A column without nulls."""
    return pa.field(name, kind, nullable=False)


def tokenized_schema(dtype: np.dtype[Any]) -> pa.Schema:
    """Tokenized documents in the order of their source, without special ids."""
    return pa.schema(
        [
            required("doc_id", DOCUMENT),
            required("source", pa.dictionary(pa.int16(), pa.string())),
            required("tokens", list_of(dtype)),
            required("n_bytes", pa.uint32()),
        ]
    )


def shard_schema(dtype: np.dtype[Any]) -> pa.Schema:
    """Shuffled documents, each closed by the end id; `continued` where a row goes on with a document that was cut."""
    return pa.schema(
        [required("tokens", list_of(dtype)), required("document", DOCUMENT), required("continued", pa.bool_())]
    )


def column(values: NDArray[Any], kind: pa.DataType | None = None) -> pa.Array:
    """A column over an existing buffer; `pa.array` would first import pandas, to see whether this is a series."""
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(kind or pa.from_numpy_dtype(values.dtype), len(values), [None, buffer])


def single_string(text: str) -> pa.Array:
    """A column of one text, without pandas again."""
    raw = text.encode()
    return pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, len(raw)], np.int32)), pa.py_buffer(raw))


def list_array(flat: NDArray[Any], offsets: NDArray[np.int64]) -> pa.Array:
    """A list column over existing buffers."""
    return pa.LargeListArray.from_arrays(column(offsets), column(flat), type=list_of(flat.dtype))


def bit_array(bits: NDArray[np.bool_]) -> pa.Array:
    """A column of truth values, eight to a byte."""
    packed = pa.py_buffer(np.packbits(bits, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(bits), [None, packed])


def write_batch(path: Path, batch: pa.RecordBatch) -> None:
    """A file of one batch; `write_table` would write none at all for an empty table."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


class TokenFile:
    """A part or shard, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        except (OSError, ValueError, IndexError) as error:
            size = path.stat().st_size if path.exists() else 0
            raise BertGPTError(
                "BG304",
                "this is not a whole Arrow file",
                path=str(path),
                cause=f"{size:,} bytes on disk; {str(error).splitlines()[0]}",
                hint="bertgpt shard --repair rebuilds it",
            ) from None

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each row begins in the flat stream, and where the last one ends."""
        tokens = self.batch.column("tokens")
        return np.frombuffer(tokens.buffers()[1], np.int64, len(self) + 1, 8 * tokens.offset)

    @cached_property
    def flat(self) -> NDArray[Any]:
        """All ids of the file."""
        values = self.batch.column("tokens").values
        dtype = np.dtype(np.uint16 if values.type == pa.uint16() else np.uint32)
        return np.frombuffer(values.buffers()[1] or b"", dtype, len(values), dtype.itemsize * values.offset)

    def row(self, i: int) -> NDArray[Any]:
        """The ids of one row."""
        return self.flat[self.offsets[i] : self.offsets[i + 1]]

    @cached_property
    def n_bytes(self) -> NDArray[np.uint32]:
        """The size of each document of a part, as text."""
        return np.frombuffer(self.batch.column("n_bytes").buffers()[1] or b"", np.uint32, len(self))

    @cached_property
    def documents(self) -> NDArray[np.uint8]:
        """The document ids, shape (rows, 16)."""
        name = "document" if "document" in self.batch.schema.names else "doc_id"
        column = self.batch.column(name)
        raw = np.frombuffer(column.buffers()[1] or b"", np.uint8, 16 * len(self), 16 * column.offset)
        return raw.reshape(-1, 16)

    def check_ids(self, max_id: int) -> None:
        """Every id is one that the tokenizer has; found here, on the CPU, before a GPU trips over it."""
        if len(self.flat) and int(self.flat.max()) > max_id:
            at = int(self.flat.argmax())
            row = int(np.searchsorted(self.offsets, at, side="right")) - 1
            raise BertGPTError(
                "BG309",
                f"the id {int(self.flat[at])} is none of the tokenizer's",
                path=str(self.path),
                cause=f"in row {row}; the largest id is {max_id}",
            )


# ----------------------------------------------------------------------------------------------- manifests


def config_hash(config: Mapping[str, Any]) -> str:
    """What a config is known by."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def resolve_artifact(path: Path) -> Path:
    """The folder of an artefact; a run stands for its finished model."""
    return path / "final" if (path / "final" / "manifest.json").is_file() else path


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artefact, if it is one that this version can read."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise no_artifact_error(folder) from None
    except (OSError, ValueError) as error:
        raise BertGPTError("BG307", "the manifest cannot be read", path=str(path), cause=str(error)) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BertGPTError("BG307", "this manifest is not one of bertgpt's", path=str(path))
    if manifest.get("version") != FORMAT_VERSION:
        command = WRITTEN_BY.get(str(manifest.get("kind")), "the command that wrote it")
        raise wrong_version(manifest.get("version"), path, f"write it again: bertgpt {command} ... --overwrite")
    if not well_formed(manifest):
        raise BertGPTError("BG307", "this manifest lacks what a manifest has", path=str(path))
    for file in manifest["files"]:
        relative = PurePosixPath(file["path"])
        if relative.is_absolute() or ".." in relative.parts or (folder / relative).is_symlink():
            raise BertGPTError("BG307", f"the manifest names a file outside of the folder: {relative}", path=str(path))
    return manifest


def wrong_version(found: object, path: Path, hint: str) -> BertGPTError:
    """The error for files of another format version; nothing is migrated."""
    newer = not isinstance(found, int) or found > FORMAT_VERSION
    hint = "upgrade bertgpt to read it" if newer else hint
    by = "a newer" if newer else "an older"
    cause = f"format version {found}; this version of bertgpt reads {FORMAT_VERSION}"
    return BertGPTError("BG307", f"written by {by} bertgpt", path=str(path), cause=cause, hint=hint)


def no_artifact_error(folder: Path) -> BertGPTError:
    """What stands there instead."""
    if folder.is_file():
        return BertGPTError("BG307", "this is a file, not a folder that `bertgpt shard` makes of it", path=str(folder))
    if not folder.exists():
        beside = [str(each) for each in folder.parent.glob("*/")] if folder.parent.is_dir() else []
        hint = did_you_mean(str(folder), beside)
        return BertGPTError("BG307", "there is no such folder", path=str(folder), hint=hint)
    return BertGPTError("BG307", "this folder has no manifest, so it is no finished artefact", path=str(folder))


def well_formed(manifest: Mapping[str, Any]) -> bool:
    """Whether the keys that everything relies on are there."""
    files, tokenizer = manifest.get("files"), manifest.get("tokenizer")
    return (
        isinstance(manifest.get("kind"), str)
        and isinstance(manifest.get("config"), dict)
        and isinstance(manifest.get("counts"), dict)
        and isinstance(tokenizer, dict)
        and isinstance(tokenizer.get("sha256"), str)
        and isinstance(files, list)
        and all(isinstance(file, dict) and {"path", "bytes", "sha256"} <= file.keys() for file in files)
        and all(isinstance(file["path"], str) for file in files)
    )


def build_manifest(
    kind: str, config: dict[str, Any], tokenizer: Tokenizer, counts: dict[str, int], files: list[dict[str, Any]]
) -> dict[str, Any]:
    """What every manifest has: no clock, host, path or speed, so that the same inputs give the same bytes."""
    roles = {role: tokenizer.roles[role] for role in sorted(tokenizer.roles)}
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "kind": kind,
        "config": config,
        "config_sha256": config_hash(config),
        "tokenizer": {"sha256": tokenizer.fingerprint, "max_id": tokenizer.max_id, "roles": roles},
        "dtype": tokenizer.dtype.name,
        "counts": counts,
        "files": files,
    }


def verify_tokenizer(folder: Path, manifest: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer in a folder, which must be the one that its ids were made with."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    if tokenizer.fingerprint != manifest["tokenizer"]["sha256"]:
        raise BertGPTError(
            "BG308",
            "the tokenizer in this folder is another one than its ids were made with",
            path=str(folder),
            cause=f"{tokenizer.fingerprint} there, {manifest['tokenizer']['sha256']} in the manifest",
            hint=f"make it again: bertgpt {'shard' if manifest['kind'] == 'shards' else 'tokenize'} ... --overwrite",
        )
    return tokenizer


def broken_files(folder: Path, manifest: Mapping[str, Any], contents: bool) -> dict[str, BertGPTError]:
    """What is wrong with the files that a manifest names; `contents` compares hashes even if that was done before."""
    known = load_verified(folder)
    wrong: dict[str, BertGPTError] = {}
    for file in manifest["files"]:
        path = folder / file["path"]
        if not path.is_file():
            wrong[file["path"]] = BertGPTError("BG306", "a file is missing", path=str(path))
            continue
        status = path.stat()
        version = [status.st_size, status.st_mtime_ns, file["sha256"]]
        if status.st_size != file["bytes"]:
            cause = f"{status.st_size:,} bytes on disk, the manifest says {file['bytes']:,}"
            wrong[file["path"]] = BertGPTError("BG304", "a file is truncated or has grown", path=str(path), cause=cause)
        elif (contents or known.get(file["path"]) != version) and (found := sha256_of(path)) != file["sha256"]:
            cause = f"sha256 {found}, the manifest says {file['sha256']}"
            wrong[file["path"]] = BertGPTError(
                "BG305", "the content of a file has changed", path=str(path), cause=cause
            )
        else:
            known[file["path"]] = version
    store_verified(folder, known)
    return wrong


def verify(folder: Path, manifest: Mapping[str, Any], contents: bool = False) -> None:
    """An artefact is what its manifest says: nothing missing, nothing added, nothing changed."""
    wrong = broken_files(folder, manifest, contents)
    missing = [name for name, error in wrong.items() if error.code == "BG306"]
    named = {file["path"] for file in manifest["files"]}
    extra = sorted(path.name for path in folder.glob("*.arrow") if path.name not in named)
    if missing or extra:
        parts = [f"missing: {', '.join(missing)}"] if missing else []
        parts += [f"not in the manifest: {', '.join(extra)}"] if extra else []
        raise BertGPTError("BG306", "the files are not those of the manifest", path=str(folder), cause="; ".join(parts))
    for error in wrong.values():
        error.hint = f"bertgpt shard --repair {folder}" if manifest["kind"] == "shards" else "make the folder again"
        raise error


def verification_cache(folder: Path) -> Path:
    """Where it is remembered which versions of a folder's files were found to be right."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]
    return cache_folder() / "verified" / f"{name}.json"


def load_verified(folder: Path) -> dict[str, Any]:
    """Size, time and hash of each file when it was last compared."""
    try:
        known = json.loads(verification_cache(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def store_verified(folder: Path, known: Mapping[str, Any]) -> None:
    """Keep it for the next time, if there is anywhere to keep it."""
    if known == load_verified(folder):
        return
    try:
        verification_cache(folder).parent.mkdir(parents=True, exist_ok=True)
        write_json(verification_cache(folder), known)
    except OSError:
        return
