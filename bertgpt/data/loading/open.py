"""Opening shards and plans for training: the chain of manifests is compared once, and then files are only mapped."""

from pathlib import Path
from typing import Any

from bertgpt.data.format import TokenFile, read_manifest, verify, verify_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import sha256_of


def open_artifact(folder: Path, kind: str) -> tuple[dict[str, Any], Tokenizer]:
    """The manifest and the tokenizer of a folder that is whole, and has no id that its tokenizer lacks."""
    manifest = read_manifest(folder)
    if manifest["kind"] != kind:
        raise BertGPTError("BG211", f"{folder} holds {manifest['kind']}, not {kind}")
    verify(folder, manifest)
    tokenizer = verify_tokenizer(folder, manifest)
    for file in manifest["files"]:
        if (file.get("max_id") or 0) > tokenizer.max_id:
            TokenFile(folder / file["path"]).check_ids(tokenizer.max_id)
    return manifest, tokenizer


def open_base_shards(folder: Path, manifest: dict[str, Any], shards: Path | None) -> Path:
    """The shards that a plan was made for; others are refused."""
    base = manifest["base"]
    where = shards or folder / base["path"]
    found = sha256_of(where / "manifest.json") if (where / "manifest.json").is_file() else "no manifest"
    if found != base["manifest_sha256"]:
        raise BertGPTError(
            "BG317",
            "these are not the shards that the plan was made for",
            path=str(where),
            cause=f"{found} there, {base['manifest_sha256']} in the plan",
            hint="make the plan again, or put the shards back where they were",
        )
    open_artifact(where, "shards")
    return where


def split_files(manifest: dict[str, Any], split: str, ending: str = ".arrow") -> list[str]:
    """The files of a split, in order."""
    files = [file for file in manifest["files"] if "split" in file]
    names = [file["path"] for file in files if file["split"] == split and file["path"].endswith(ending)]
    if not names:
        known = ", ".join(sorted({file["split"] for file in files}))
        raise BertGPTError("BG211", f"there is no split {split}", cause=f"the splits are {known}")
    return names
