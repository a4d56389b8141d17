"""Arrow files of token ids, and manifests with the size and hash of every file.

A file is one record batch in the Arrow IPC *file* format, uncompressed: the child buffer of its list column is the
flat stream of ids, its offsets are the index of documents, and both are memory-mapped without a copy. A folder is
complete when it has a manifest, which is written last.
"""

import hashlib
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
from bertgpt.utils.files import cache_folder, sha256_of, sha256_of_json, write_json
from bertgpt.utils.json_files import parse_json
from bertgpt.utils.version import FORMAT_VERSION

FORMAT = "bertgpt"
# The command that writes each kind of artifact.
WRITTEN_BY = {
    "tokens": "tokenize",
    "shards": "shard",
    "mask_plan": "mask",
    "model": "pretrain",
    "bin": "export",
    "hf": "export",
}
KIND_NAMES = {
    "tokens": "tokenized files", "shards": "shards", "mask_plan": "a mask plan", "model": "a model",
    "bin": "binary files", "hf": "a transformers model",
}  # fmt: skip
DOCUMENT = pa.binary(16)  # blake2b-128 of the exact UTF-8 bytes


def list_of(dtype: np.dtype[Any]) -> pa.DataType:
    """Lists of numbers without nulls; 64-bit offsets, since 32-bit ones overflow when files are concatenated."""
    return pa.large_list(pa.field("item", pa.from_numpy_dtype(dtype), nullable=False))


def required(name: str, kind: pa.DataType) -> pa.Field:
    """A column without nulls."""
    return pa.field(name, kind, nullable=False)


def tokenized_schema(dtype: np.dtype[Any]) -> pa.Schema:
    """Tokenized files: documents in the order of their source, without special ids."""
    return pa.schema(
        [
            required("doc_id", DOCUMENT),
            required("source", pa.dictionary(pa.int16(), pa.string())),
            required("tokens", list_of(dtype)),
            required("n_bytes", pa.uint32()),
        ]
    )


def shard_schema(dtype: np.dtype[Any]) -> pa.Schema:
    """Shards: shuffled documents, each closed by the end id; `continued`: the row is a later fragment of a document."""
    return pa.schema(
        [required("tokens", list_of(dtype)), required("doc_id", DOCUMENT), required("continued", pa.bool_())]
    )


def column(values: NDArray[Any], kind: pa.DataType | None = None) -> pa.Array:
    """A column over an existing buffer; `pa.array` would import pandas first, to check for a Series."""
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(kind or pa.from_numpy_dtype(values.dtype), len(values), [None, buffer])


def single_string(text: str) -> pa.Array:
    """A column of one string, without importing pandas either."""
    raw = text.encode()
    return pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, len(raw)], np.int32)), pa.py_buffer(raw))


def list_array(flat: NDArray[Any], offsets: NDArray[np.int64]) -> pa.Array:
    """A list column over existing buffers."""
    return pa.LargeListArray.from_arrays(column(offsets), column(flat), type=list_of(flat.dtype))


def bit_array(bits: NDArray[np.bool_]) -> pa.Array:
    """A column of booleans, eight to a byte."""
    packed = pa.py_buffer(np.packbits(bits, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(bits), [None, packed])


def numbers(values: pa.Array) -> NDArray[Any]:
    """A column of numbers as an array over its buffer; `to_numpy` would import pandas."""
    return np.frombuffer(values.buffers()[1] or b"", values.type.to_pandas_dtype(), len(values))


def write_batch(path: Path, batch: pa.RecordBatch) -> None:
    """Write a file of one record batch; `write_table` would write none for an empty table."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def open_batches(path: Path, hint: str) -> list[pa.RecordBatch]:
    """The record batches of a memory-mapped file, at least one; an error if it is damaged."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = [reader.get_batch(i) for i in range(max(1, reader.num_record_batches))]
        for batch in batches:
            batch.validate()
        return batches
    except (OSError, ValueError, IndexError) as error:
        size = path.stat().st_size if path.exists() else 0
        cause = f"{size:,} bytes on disk; {str(error).splitlines()[0]}"
        message = "Arrow file is corrupt or incomplete"
        raise BertGPTError("BG304", message, path=str(path), cause=cause, hint=hint) from None


def check_schema(path: Path, schema: pa.Schema, *known: pa.Schema) -> None:
    """Refuse an Arrow file with other columns."""
    if not any(schema.equals(each) for each in known):
        columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise BertGPTError("BG304", "Arrow file has other columns", path=str(path), cause=columns)


class TokenFile:
    """A memory-mapped tokenized file or shard."""

    def __init__(self, path: Path) -> None:
        self.path, self.batch = path, open_batches(path, "bertgpt shard --repair rebuilds it")[0]

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """The start of each row in the flat stream, and the end of the last."""
        return numbers(self.batch.column("tokens").offsets)

    @cached_property
    def flat(self) -> NDArray[Any]:
        """All ids of the file."""
        return numbers(self.batch.column("tokens").values)

    def row(self, i: int) -> NDArray[Any]:
        """The ids of one row."""
        return self.flat[self.offsets[i] : self.offsets[i + 1]]

    @cached_property
    def n_bytes(self) -> NDArray[np.uint32]:
        """The bytes of text of each document of a tokenized file."""
        return numbers(self.batch.column("n_bytes"))

    @cached_property
    def documents(self) -> NDArray[np.uint8]:
        """The document hashes, shape (rows, 16)."""
        content = self.batch.column("doc_id").buffers()[1] or b""
        return np.frombuffer(content, np.uint8, 16 * len(self)).reshape(-1, 16)

    def check(self, max_id: int) -> None:
        """Refuse a file that is not of our schemas, or whose offsets or ids are impossible."""
        schemas = [schema(np.dtype(kind)) for schema in (tokenized_schema, shard_schema) for kind in ("u2", "u4")]
        check_schema(self.path, self.batch.schema, *schemas)
        offsets = self.offsets
        if offsets[0] != 0 or offsets[-1] != len(self.flat) or (np.diff(offsets) < 0).any():
            raise BertGPTError("BG304", "offsets of documents are impossible", path=str(self.path))
        self.check_ids(max_id)

    def check_ids(self, max_id: int) -> None:
        """Refuse ids that the tokenizer does not have: on a GPU they would be an illegal memory access."""
        if len(self.flat) and int(self.flat.max()) > max_id:
            at = int(self.flat.argmax())
            row = int(np.searchsorted(self.offsets, at, side="right")) - 1
            raise BertGPTError(
                "BG309",
                f"id {int(self.flat[at])} is not in the tokenizer",
                path=str(self.path),
                cause=f"in row {row}; the largest id is {max_id}",
            )


# ----------------------------------------------------------------------------------------------- manifests


def resolve_artifact(path: Path) -> Path:
    """The folder of an artifact: of a run, that of its final model."""
    return path / "final" if (path / "final" / "manifest.json").is_file() else path


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of an artifact; an error if this version cannot read it."""
    path = folder / "manifest.json"
    try:
        manifest = parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise no_artifact_error(folder) from None
    except (OSError, ValueError) as error:
        raise BertGPTError("BG307", "manifest cannot be read", path=str(path), cause=str(error)) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BertGPTError("BG307", "manifest was not written by bertgpt", path=str(path))
    if manifest.get("version") != FORMAT_VERSION:
        raise wrong_version(manifest.get("version"), path, rebuild_hint(manifest))
    if not well_formed(manifest):
        raise BertGPTError("BG307", "manifest is missing required keys", path=str(path))
    for file in manifest["files"]:
        relative = PurePosixPath(file["path"])
        leaves = relative.is_absolute() or ".." in relative.parts or (folder / relative).is_symlink()
        if leaves or not (folder / relative).resolve().is_relative_to(folder.resolve()):  # through a linked subfolder
            raise BertGPTError("BG307", f"manifest names a file outside of the folder: {relative}", path=str(path))
    return manifest


def manifest_hash(folder: Path) -> str:
    """The hash of a folder's manifest, which stands for its content: to be taken before anything is read."""
    path = folder / "manifest.json"
    return sha256_of(path) if path.is_file() else "no manifest"


def check_unchanged(folder: Path, sha256: str) -> None:
    """Refuse what was read from a folder that another process has replaced since its hash was taken."""
    if (now := manifest_hash(folder)) != sha256:
        cause = f"its manifest was {sha256[:16]}, is now {now[:16]}"
        hint = "rerun the same command"
        raise BertGPTError("BG317", "input was replaced while it was read", path=str(folder), cause=cause, hint=hint)


def rebuild_hint(manifest: Mapping[str, Any]) -> str:
    """How to write an artifact again."""
    command = WRITTEN_BY.get(str(manifest.get("kind")))
    return f"write it again: bertgpt {command} ... --overwrite" if command else "write it again, with --overwrite"


def wrong_version(version: object, path: Path, hint: str) -> BertGPTError:
    """The error for files of another format version; old files are not migrated."""
    newer = not isinstance(version, int) or version > FORMAT_VERSION
    hint = "upgrade bertgpt to read it" if newer else hint
    by = "a newer" if newer else "an older"
    cause = f"format version {version}; this version of bertgpt reads {FORMAT_VERSION}"
    return BertGPTError("BG307", f"written by {by} bertgpt", path=str(path), cause=cause, hint=hint)


def no_artifact_error(folder: Path) -> BertGPTError:
    """The error for a path that is not an artifact: it says what the path is instead."""
    if folder.is_file():
        return BertGPTError(
            "BG307", "this is a file; `bertgpt shard` makes a folder of shards from it", path=str(folder)
        )
    if not folder.exists():
        siblings = [str(sibling) for sibling in folder.parent.glob("*/")] if folder.parent.is_dir() else []
        hint = did_you_mean(str(folder), siblings)
        return BertGPTError("BG307", "no such folder", path=str(folder), hint=hint)
    if (folder / "run.json").exists():
        finished = (folder / "final").exists()
        hint = f"its model is {folder / 'final'}" if finished else "rerun the command that trains it, which resumes"
        kind = "a run" if finished else "an unfinished run"
        return BertGPTError("BG307", f"this is {kind}, not the output of another command", path=str(folder), hint=hint)
    return BertGPTError("BG307", "folder has no manifest: it is not a finished artifact", path=str(folder))


def well_formed(manifest: Mapping[str, Any]) -> bool:
    """Whether the manifest has the keys that every reader relies on."""
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
    """The keys of every manifest: no clock, host, path or speed, so that the same inputs give the same bytes."""
    roles = {role: tokenizer.roles[role] for role in sorted(tokenizer.roles)}
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "kind": kind,
        "config": config,
        "config_sha256": sha256_of_json(config),
        "tokenizer": {"sha256": tokenizer.fingerprint, "max_id": tokenizer.max_id, "roles": roles},
        "dtype": tokenizer.dtype.name,
        "counts": counts,
        "files": files,
    }


def verify_tokenizer(folder: Path, manifest: Mapping[str, Any]) -> Tokenizer:
    """Load the tokenizer of a folder; an error if its ids were made with another."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    if tokenizer.fingerprint != manifest["tokenizer"]["sha256"]:
        raise BertGPTError(
            "BG308",
            "tokenizer does not match the ids of this folder",
            path=str(folder),
            cause=f"fingerprint {tokenizer.fingerprint}, in the manifest {manifest['tokenizer']['sha256']}",
            hint=rebuild_hint(manifest),
        )
    return tokenizer


def broken_files(folder: Path, manifest: Mapping[str, Any], contents: bool) -> dict[str, BertGPTError]:
    """The error of each broken file; `contents` compares hashes even if the file was verified before."""
    known = load_verified(folder)
    broken: dict[str, BertGPTError] = {}
    for file in manifest["files"]:
        path = folder / file["path"]
        if not path.is_file():
            broken[file["path"]] = BertGPTError("BG306", "file is missing", path=str(path))
            continue
        status = path.stat()
        version = [status.st_size, status.st_mtime_ns, file["sha256"]]
        if status.st_size != file["bytes"]:
            cause = f"{status.st_size:,} bytes on disk, the manifest says {file['bytes']:,}"
            broken[file["path"]] = BertGPTError(
                "BG304", "file size does not match the manifest", path=str(path), cause=cause
            )
        elif contents or known.get(file["path"]) != version:
            if error := content_error(path, file["sha256"], manifest):
                broken[file["path"]] = error
            else:
                known[file["path"]] = version
    store_verified(folder, known)
    return broken


def content_error(path: Path, sha256: str, manifest: Mapping[str, Any]) -> BertGPTError | None:
    """The error of a file whose hash differs, or whose ids or offsets are impossible: its manifest may be untrusted."""
    if (actual := sha256_of(path)) != sha256:
        cause = f"sha256 {actual}, the manifest says {sha256}"
        return BertGPTError("BG305", "checksum mismatch", path=str(path), cause=cause)
    if manifest["kind"] in ("tokens", "shards") and path.suffix == ".arrow":
        try:
            TokenFile(path).check(manifest["tokenizer"]["max_id"])
        except BertGPTError as error:
            return error
    return None


def verify(folder: Path, manifest: Mapping[str, Any], contents: bool = False) -> None:
    """Verify that the files match the manifest: none missing, none added, none changed."""
    broken = broken_files(folder, manifest, contents)
    missing = [name for name, error in broken.items() if error.code == "BG306"]
    listed = {file["path"] for file in manifest["files"]}
    extra = sorted(path.name for path in folder.glob("*.arrow") if path.name not in listed)
    if missing or extra:
        causes = [f"missing: {', '.join(missing)}"] if missing else []
        causes += [f"not in the manifest: {', '.join(extra)}"] if extra else []
        raise BertGPTError("BG306", "files do not match the manifest", path=str(folder), cause="; ".join(causes))
    for error in broken.values():
        error.hint = f"bertgpt shard --repair {folder}" if manifest["kind"] == "shards" else rebuild_hint(manifest)
        raise error


def verification_cache(folder: Path) -> Path:
    """Where it is cached which versions of a folder's files have been verified."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]
    return cache_folder() / "verified" / f"{name}.json"


def load_verified(folder: Path) -> dict[str, Any]:
    """Size, modification time and hash of each file when it was last verified."""
    try:
        known = parse_json(verification_cache(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def store_verified(folder: Path, known: Mapping[str, Any]) -> None:
    """Cache them for the next time, if the cache can be written."""
    if known == load_verified(folder):
        return
    try:
        verification_cache(folder).parent.mkdir(parents=True, exist_ok=True)
        write_json(verification_cache(folder), known)
    except OSError:
        return
