"""Repair a folder of shards: build its broken files again from the source, and nothing else."""

import shutil
from pathlib import Path

from bertgpt.config.data_options import ShardOptions
from bertgpt.data.build.inputs import open_input, open_workdir
from bertgpt.data.build.publish import summarize
from bertgpt.data.build.shuffle import assign_documents, shard_config, write_shards
from bertgpt.data.execution.tasks import Metadata
from bertgpt.data.execution.workdir import config_diff
from bertgpt.data.format import broken_files, read_manifest, verify
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.json_files import parse_json


def repair_shards(folder: Path, options: ShardOptions) -> Metadata:
    """Rebuild broken shards; each must get the hash that the manifest has."""
    manifest = read_manifest(folder)
    broken = broken_files(folder, manifest, contents=True)
    if not broken:
        console.info(f"nothing is broken in {folder}")
        return summarize(folder)
    options = recorded_options(options, folder)
    inputs = open_input(options)
    with open_workdir(inputs) as workdir:
        config = shard_config(options, inputs.config)
        check_same_config(config, manifest["config"], folder)
        tokenized = inputs.tokenize(workdir)
        plan = assign_documents(tokenized, options)
        shards = write_shards(plan, tokenized, workdir, config, only=set(broken))
        expected = {file["path"]: file["sha256"] for file in manifest["files"]}
        for path, result in zip(shards.paths, shards.results, strict=True):
            if result.sha256 != expected[result.name]:
                raise BertGPTError("BG305", "rebuilt file differs from the manifest", path=result.name)
            shutil.copyfile(path, workdir.root / result.name)
            (workdir.root / result.name).replace(folder / result.name)
        workdir.remove()
    console.info(f"rebuilt {', '.join(sorted(broken))}")
    verify(folder, manifest)
    return summarize(folder)


def recorded_options(options: ShardOptions, folder: Path) -> ShardOptions:
    """The options that the folder was made with; sources from the command line, else from its run.json."""
    try:
        recorded = parse_json((folder / "run.json").read_text(encoding="utf-8"))["options"]
        sources = options.sources or list(recorded["sources"])
        tokenizer = recorded["tokenizer"] and str(folder / "tokenizer")
    except (OSError, ValueError, KeyError, TypeError):
        message = "run.json, which has the options of these shards, is missing or corrupt"
        raise BertGPTError("BG307", message, path=str(folder)) from None
    changed = {"sources": sources, "tokenizer": tokenizer, "workers": options.workers}
    changed |= {"out": str(folder), "overwrite": True, "finalize": False}
    return ShardOptions.model_validate(recorded | changed)


def check_same_config(config: Metadata, expected: Metadata, folder: Path) -> None:
    """Refuse to rebuild shards from other sources or with other options."""
    if config != expected:
        raise BertGPTError(
            "BG305",
            "source or options differ from those of the shards",
            path=str(folder),
            cause="; ".join(config_diff(expected, config)),
            hint="give the SOURCE that the shards were made from",
        )
