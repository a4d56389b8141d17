"""Shards as flat files of ids, one for each split: what nanoGPT and its descendants map into memory."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from bertgpt.data.execution.tasks import Facts
from bertgpt.data.execution.workdir import WorkDirectory
from bertgpt.data.format import TokenFile, build_manifest, read_manifest, verify, verify_tokenizer
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import check_space, sha256_of, write_atomic


def to_bin(shards: Path, out: Path, fresh: bool) -> Facts:
    """Write SPLIT.bin for each split: the ids of its files one after the other, without a header."""
    manifest = read_manifest(shards)
    if manifest["kind"] != "shards":
        raise BertGPTError("BG211", f"{shards} holds {manifest['kind']}, not shards")
    verify(shards, manifest)
    tokenizer = verify_tokenizer(shards, manifest)
    parent = sha256_of(shards / "manifest.json")
    config = {"parent": parent, "to": "bin"}
    with WorkDirectory(out, fresh) as work:
        if not work.finished(config):
            check_space(work.root, sum(file["bytes"] for file in manifest["files"]))
            final = work.folder(config, "final", empty=True)
            files = write_splits(shards, manifest, final)
            exported = build_manifest("bin", config, tokenizer, manifest["counts"], files)
            exported["parent"] = {"manifest_sha256": parent}
            work.publish(final, exported, shards / "tokenizer", {"shards": str(shards.resolve())})
    done = read_manifest(out)
    return {"path": str(out), "kind": "bin", "dtype": done["dtype"], "files": done["files"]}


def write_splits(shards: Path, manifest: Facts, final: Path) -> list[Facts]:
    """The flat files, and what the manifest says of them."""
    progress = console.Progress("exporting", sum(file["bytes"] for file in manifest["files"]))
    files: dict[str, list[Facts]] = defaultdict(list)
    for file in manifest["files"]:
        files[file["split"]].append(file)
    done, written = 0, []
    for split, parts in files.items():
        path = final / f"{split}.bin"

        def write(aside: Path, parts: list[Any] = parts) -> None:
            nonlocal done
            with aside.open("wb") as flat:
                for part in parts:
                    TokenFile(shards / part["path"]).flat.tofile(flat)
                    done += part["bytes"]
                    progress.update(done)

        write_atomic(path, write, durable=False)
        tokens = sum(part["tokens"] for part in parts)
        size = path.stat().st_size
        written.append({"path": path.name, "bytes": size, "sha256": sha256_of(path), "split": split, "tokens": tokens})
    progress.end()
    return written
