"""Looking into token parts and shards: what they hold, how long their documents are, and one document as text."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertgpt.errors import BertGPTError
from bertgpt.shards.format import TokenFile, read_manifest, verify, verify_tokenizer
from bertgpt.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}


def open_files(folder: Path, manifest: dict[str, Any]) -> Iterator[tuple[dict[str, Any], TokenFile]]:
    """The files of an artefact in the order of its manifest."""
    for entry in manifest["files"]:
        yield entry, TokenFile(folder / entry["path"])


def look(folder: Path, document: int | None, contents: bool) -> dict[str, Any]:
    """The manifest in brief with the lengths of documents, or one document decoded."""
    manifest = read_manifest(folder)
    verify(folder, manifest, contents)
    tokenizer = verify_tokenizer(folder, manifest)
    if document is not None:
        found = one_document(folder, manifest, tokenizer, document)
        return {"kind": manifest["kind"], "path": str(folder), "document": found}
    if contents:
        for _, file in open_files(folder, manifest):
            file.check_ids(tokenizer.max_id)
    lengths = np.concatenate([np.diff(file.offsets) for _, file in open_files(folder, manifest)])
    return {
        "kind": manifest["kind"],
        "path": str(folder),
        "verified": "contents" if contents else "sizes, and contents unless they were compared before",
        "dtype": manifest["dtype"],
        "tokenizer": manifest["tokenizer"],
        "config": manifest["config"],
        "sources": manifest["sources"],
        "counts": manifest["counts"],
        "splits": manifest.get("splits", {}),
        "files": [{key: value for key, value in entry.items() if key != "counts"} for entry in manifest["files"]],
        "lengths": {name: int(np.quantile(lengths, q, method="nearest")) for name, q in QUANTILES.items()}
        if len(lengths)
        else {},
    }


def one_document(folder: Path, manifest: dict[str, Any], tokenizer: Tokenizer, number: int) -> dict[str, Any]:
    """Row `number`, counted through all files, with its tokens apart."""
    left = number
    for entry, file in open_files(folder, manifest):
        if left < len(file):
            file.check_ids(tokenizer.max_id)
            ids = file.row(left).tolist()
            return {
                "number": number,
                "file": entry["path"],
                "row": left,
                "id": file.documents[left].tobytes().hex(),
                "tokens": len(ids),
                "text": tokenizer.decode(ids),
                "pieces": [tokenizer.decode([i]) for i in ids],
                "ids": ids,
            }
        left -= len(file)
    rows = number - left
    raise BertGPTError(
        "BG215", f"there is no document {number}", path=str(folder), cause=f"they are numbered 0 to {rows - 1}"
    )


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
