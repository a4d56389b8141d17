"""Opening shards and mask plans: their manifests are verified once, then the files are only memory-mapped."""

from pathlib import Path
from typing import Any

from bertgpt.data.format import KIND_NAMES, TokenFile, read_manifest, verify, verify_tokenizer
from bertgpt.data.tokenizers.tokenizer import Tokenizer
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import sha256_of


def open_artifact(folder: Path, kind: str) -> tuple[dict[str, Any], Tokenizer]:
    """The manifest and the tokenizer of a folder. Raises if files are corrupt or have ids that the tokenizer lacks."""
    manifest = read_manifest(folder)
    if manifest["kind"] != kind:
        held, wanted = (KIND_NAMES.get(name, name) for name in (manifest["kind"], kind))
        raise BertGPTError("BG211", f"{folder} is {held}, not {wanted}")
    verify(folder, manifest)
    tokenizer = verify_tokenizer(folder, manifest)
    for file in manifest["files"]:
        if (file.get("max_id") or 0) > tokenizer.max_id:
            TokenFile(folder / file["path"]).check_ids(tokenizer.max_id)
    return manifest, tokenizer


def open_base_shards(folder: Path, manifest: dict[str, Any], shards: Path | None) -> Path:
    """The verified base shards of a mask plan, at `shards` or where the plan expects them. Raises if they differ."""
    base = manifest["base"]
    path = shards or folder / base["path"]
    sha256 = sha256_of(path / "manifest.json") if (path / "manifest.json").is_file() else "no manifest"
    if sha256 != base["manifest_sha256"]:
        raise BertGPTError(
            "BG317",
            "base shards do not match the mask plan",
            path=str(path),
            cause=f"their manifest: {sha256}; in the mask plan: {base['manifest_sha256']}",
            hint="build the mask plan again, or move the shards back",
        )
    open_artifact(path, "shards")
    return path


def split_files(manifest: dict[str, Any], split: str, suffix: str = ".arrow") -> list[str]:
    """The names of the files of a split, in order."""
    files = [file for file in manifest["files"] if "split" in file]
    names = [file["path"] for file in files if file["split"] == split and file["path"].endswith(suffix)]
    if not names:
        splits = ", ".join(sorted({file["split"] for file in files}))
        raise BertGPTError("BG211", f"no such split: {split}", cause=f"the splits are {splits}")
    return names
