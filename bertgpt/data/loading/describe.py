"""Looking into artefacts: what they hold, how long their documents are, and one document as text."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertgpt.data.format import TokenFile, read_manifest, verify, verify_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.utils.errors import BertGPTError

if TYPE_CHECKING:
    from datasets import Dataset

BLOCK = 1 << 24  # ids of a flat file that are looked through at once
QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}


def open_files(folder: Path, manifest: dict[str, Any]) -> Iterator[tuple[dict[str, Any], TokenFile]]:
    """The files of an artefact in the order of its manifest."""
    for entry in manifest["files"]:
        yield entry, TokenFile(folder / entry["path"])


def describe_artifact(
    folder: Path, document: int | None, contents: bool, split: str | None, start: int, count: int
) -> dict[str, Any]:
    """The manifest in brief with the lengths of documents or some rows; or one document or row alone."""
    manifest = read_manifest(folder)
    verify(folder, manifest, contents)
    tokenizer = verify_tokenizer(folder, manifest)
    seen: dict[str, Any] = {"kind": manifest["kind"], "path": str(folder)}
    if manifest["kind"] == "plan":
        from bertgpt.data.loading.describe_mask import describe_mask_rows

        first, many = (start, count) if document is None else (document, 1)
        seen["rows"] = describe_mask_rows(folder, tokenizer, split or "train", first, many)
        if document is not None:
            return seen
    elif document is not None:
        find = read_bin_document if manifest["kind"] == "bin" else read_document
        return seen | {"document": find(folder, manifest, tokenizer, document)}
    kept = ("dtype", "tokenizer", "config", "sources", "base", "counts", "splits")
    seen |= {key: manifest[key] for key in kept if key in manifest}
    seen["verified"] = "contents" if contents else "sizes, and contents unless they were compared before"
    seen["files"] = [{key: value for key, value in entry.items() if key != "counts"} for entry in manifest["files"]]
    if manifest["kind"] == "model":
        seen["card"] = (folder / "card.md").read_text(encoding="utf-8")
    if manifest["kind"] in ("tokens", "shards"):
        seen["lengths"] = lengths_of(folder, manifest, tokenizer.max_id if contents else None)
    return seen


def lengths_of(folder: Path, manifest: dict[str, Any], max_id: int | None) -> dict[str, int]:
    """How long documents are; on the way every id is looked at, if a largest one is given."""
    lengths = [np.zeros(0, np.int64)]
    for _, file in open_files(folder, manifest):
        lengths.append(np.diff(file.offsets))
        if max_id is not None:
            file.check_ids(max_id)
    every = np.concatenate(lengths)
    quantiles = {name: np.quantile(every, q, method="nearest") for name, q in QUANTILES.items()} if len(every) else {}
    return {name: int(value) for name, value in quantiles.items()}


def read_document(folder: Path, manifest: dict[str, Any], tokenizer: Tokenizer, number: int) -> dict[str, Any]:
    """Row `number`, counted through all files, with its tokens apart."""
    left = number
    for entry, file in open_files(folder, manifest):
        if left < len(file):
            file.check_ids(tokenizer.max_id)
            where = {"number": number, "file": entry["path"], "row": left, "id": file.documents[left].tobytes().hex()}
            return where | decoded(file.row(left).tolist(), tokenizer)
        left -= len(file)
    raise no_document(folder, number, number - left)


def read_bin_document(folder: Path, manifest: dict[str, Any], tokenizer: Tokenizer, number: int) -> dict[str, Any]:
    """Document `number` of flat files, where nothing but end ids says where documents begin."""
    left = number
    for entry in manifest["files"]:
        flat = np.memmap(folder / entry["path"], manifest["dtype"], "r")
        begin = 0
        for start in range(0, len(flat), BLOCK):
            ends = start + np.flatnonzero(flat[start : start + BLOCK] == tokenizer.eos_id) + 1
            if left < len(ends):
                first, last = int(ends[left - 1]) if left else begin, int(ends[left])
                where = {"number": number, "file": entry["path"], "row": number, "first_id": first}
                return where | decoded(flat[first:last].tolist(), tokenizer)
            left -= len(ends)
            begin = int(ends[-1]) if len(ends) else begin
    raise no_document(folder, number, number - left)


def decoded(ids: list[int], tokenizer: Tokenizer) -> dict[str, Any]:
    """A document as text, and with its tokens apart."""
    pieces = [tokenizer.decode([i]) for i in ids]
    return {"tokens": len(ids), "text": tokenizer.decode(ids), "pieces": pieces, "ids": ids}


def no_document(folder: Path, number: int, count: int) -> BertGPTError:
    """There are not so many."""
    cause = f"they are numbered 0 to {count - 1}"
    return BertGPTError("BG215", f"there is no document {number}", path=str(folder), cause=cause)


def to_hf(folder: str | Path, split: str = "train") -> "Dataset":
    """Shards as a `datasets.Dataset`, memory-mapped and not copied."""
    import pyarrow as pa
    from datasets import Dataset, concatenate_datasets
    from datasets.table import InMemoryTable

    manifest = read_manifest(Path(folder))
    files = [Path(folder) / file["path"] for file in manifest["files"] if file.get("split", "train") == split]
    if not files:
        raise BertGPTError("BG211", f"there is no split {split}", path=str(folder))
    tables = [pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in files]
    return concatenate_datasets([Dataset(InMemoryTable(table)) for table in tables])
