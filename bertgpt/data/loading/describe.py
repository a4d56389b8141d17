"""`inspect` for artifacts: manifest, document lengths, and single documents as text and tokens."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertgpt.data.format import TokenFile, read_manifest, verify, verify_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.utils.errors import BertGPTError

if TYPE_CHECKING:
    from datasets import Dataset

BLOCK = 1 << 24  # ids of a flat file that are searched at once
QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}
MANIFEST_KEYS = ("dtype", "tokenizer", "config", "sources", "base", "counts", "splits")


def describe_artifact(
    folder: Path, document: int | None, contents: bool, split: str | None, start: int, count: int
) -> dict[str, Any]:
    """A summary of the manifest with document lengths, or rows of a mask plan; or a single document or row."""
    manifest = read_manifest(folder)
    verify(folder, manifest, contents)
    tokenizer = verify_tokenizer(folder, manifest)
    result: dict[str, Any] = {"kind": manifest["kind"], "path": str(folder)}
    if manifest["kind"] == "mask_plan":
        from bertgpt.data.loading.describe_mask import describe_mask_rows

        first, num_rows = (start, count) if document is None else (document, 1)
        result["rows"] = describe_mask_rows(folder, tokenizer, split or "train", first, num_rows)
        if document is not None:
            return result
    elif document is not None:
        read = read_bin_document if manifest["kind"] == "bin" else read_document
        return result | {"document": read(folder, manifest, tokenizer, document)}
    result |= {key: manifest[key] for key in MANIFEST_KEYS if key in manifest}
    result["verified"] = "contents" if contents else "sizes, and contents that were not verified before"
    result["files"] = [{key: value for key, value in entry.items() if key != "counts"} for entry in manifest["files"]]
    if manifest["kind"] == "model":
        result["card"] = (folder / "card.md").read_text(encoding="utf-8")
    if manifest["kind"] in ("tokens", "shards"):
        result["lengths"] = length_quantiles(folder, manifest, tokenizer.max_id if contents else None)
    return result


def token_files(folder: Path, manifest: dict[str, Any]) -> Iterator[tuple[dict[str, Any], TokenFile]]:
    """The files of an artifact in the order of its manifest, each with its entry there."""
    for entry in manifest["files"]:
        yield entry, TokenFile(folder / entry["path"])


def length_quantiles(folder: Path, manifest: dict[str, Any], max_id: int | None) -> dict[str, int]:
    """Quantiles of document lengths in tokens; with `max_id` every id is checked against it."""
    lengths = [np.zeros(0, np.int64)]
    for _, file in token_files(folder, manifest):
        lengths.append(np.diff(file.offsets))
        if max_id is not None:
            file.check_ids(max_id)
    all_lengths = np.concatenate(lengths)
    if not len(all_lengths):
        return {}
    return {name: int(np.quantile(all_lengths, q, method="nearest")) for name, q in QUANTILES.items()}


def read_document(folder: Path, manifest: dict[str, Any], tokenizer: Tokenizer, number: int) -> dict[str, Any]:
    """Document `number`, counted through all files."""
    row = number
    for entry, file in token_files(folder, manifest):
        if row < len(file):
            file.check_ids(tokenizer.max_id)
            source = {"number": number, "file": entry["path"], "row": row, "id": file.documents[row].tobytes().hex()}
            return source | decode_document(file.row(row).tolist(), tokenizer)
        row -= len(file)
    raise no_document(folder, number, number - row)


def read_bin_document(folder: Path, manifest: dict[str, Any], tokenizer: Tokenizer, number: int) -> dict[str, Any]:
    """Document `number` of flat files, in which only end-of-text ids separate documents."""
    row = number
    for entry in manifest["files"]:
        flat = np.memmap(folder / entry["path"], manifest["dtype"], "r")
        begin = 0
        for start in range(0, len(flat), BLOCK):
            ends = start + np.flatnonzero(flat[start : start + BLOCK] == tokenizer.eos_id) + 1
            if row < len(ends):
                first, last = int(ends[row - 1]) if row else begin, int(ends[row])
                source = {"number": number, "file": entry["path"], "row": number, "first_id": first}
                return source | decode_document(flat[first:last].tolist(), tokenizer)
            row -= len(ends)
            begin = int(ends[-1]) if len(ends) else begin
    raise no_document(folder, number, number - row)


def decode_document(ids: list[int], tokenizer: Tokenizer) -> dict[str, Any]:
    """A document as text, as the text of each token, and as ids."""
    token_strings = [tokenizer.decode([i]) for i in ids]
    return {"tokens": len(ids), "text": tokenizer.decode(ids), "token_strings": token_strings, "ids": ids}


def no_document(folder: Path, number: int, count: int) -> BertGPTError:
    """The error for a document number out of range."""
    cause = f"documents are numbered 0 to {count - 1}"
    return BertGPTError("BG215", f"no such document: {number}", path=str(folder), cause=cause)


def to_datasets(folder: str | Path, split: str = "train") -> "Dataset":
    """Shards as a memory-mapped `datasets.Dataset`, without copying."""
    import pyarrow as pa
    from datasets import Dataset, concatenate_datasets
    from datasets.table import InMemoryTable

    manifest = read_manifest(Path(folder))
    files = [Path(folder) / file["path"] for file in manifest["files"] if file.get("split", "train") == split]
    if not files:
        raise BertGPTError("BG211", f"no such split: {split}", path=str(folder))
    tables = [pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in files]
    return concatenate_datasets([Dataset(InMemoryTable(table)) for table in tables])
