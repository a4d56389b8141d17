"""Export shards to .bin: one flat file of token ids per split, as nanoGPT memory-maps it."""

from pathlib import Path

from bertgpt.data.execution.tasks import Metadata
from bertgpt.data.execution.workdir import WorkDirectory
from bertgpt.data.format import TokenFile, build_manifest, manifest_hash, read_manifest
from bertgpt.data.loading.open import open_artifact
from bertgpt.utils import console
from bertgpt.utils.files import sha256_of


def to_bin(shards: Path, out: Path, overwrite: bool) -> Metadata:
    """Write SPLIT.bin for each split: the ids of its files one after the other, without a header."""
    parent = manifest_hash(shards)
    manifest, tokenizer = open_artifact(shards, "shards")
    config = {"parent": parent, "to": "bin"}
    with WorkDirectory(out, overwrite) as workdir:
        if not workdir.is_up_to_date(config):
            size = sum(file["bytes"] for file in manifest["files"])
            workdir.check_space(size, size, config)
            workdir.parents[shards] = parent
            final = workdir.folder(config, "final", empty=True)
            files = write_splits(shards, manifest, final)
            exported = build_manifest("bin", config, tokenizer, manifest["counts"], files)
            exported["parent"] = {"manifest_sha256": parent}
            workdir.publish(final, exported, shards / "tokenizer", {"shards": str(shards.resolve())})
    result = read_manifest(out)
    return {"path": str(out), "kind": "bin", "dtype": result["dtype"], "files": result["files"]}


def write_splits(shards: Path, manifest: Metadata, final: Path) -> list[Metadata]:
    """Write the files, and return their manifest entries."""
    progress = console.Progress("exporting", sum(file["bytes"] for file in manifest["files"]))
    done, entries = 0, []
    for split in dict.fromkeys(file["split"] for file in manifest["files"]):
        files = [file for file in manifest["files"] if file["split"] == split]
        path = final / f"{split}.bin"
        with path.open("wb") as stream:  # no atomic write needed: the folder is published as a whole
            for file in files:
                stream.write(TokenFile(shards / file["path"]).flat.data)
                done += file["bytes"]
                progress.update(done)
        tokens, size = sum(file["tokens"] for file in files), path.stat().st_size
        entries.append({"path": path.name, "bytes": size, "sha256": sha256_of(path), "split": split, "tokens": tokens})
    progress.end()
    return entries
