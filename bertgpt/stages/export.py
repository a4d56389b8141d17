"""`bertgpt export`: export a model for transformers, or shards as nanoGPT's `.bin`."""

from pathlib import Path
from typing import Any

from bertgpt.config.options import ExportOptions
from bertgpt.utils.console import Console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.tables import format_number


def run(options: ExportOptions) -> dict[str, Any]:
    """Export a model or shards; returns what was written."""
    path, out = Path(options.path), Path(options.out)
    target = export_format(path)
    if options.to not in (None, target):
        kind = {"bin": "shards", "hf": "a model"}[target]
        raise BertGPTError("BG204", f"{path} contains {kind}: cannot export to {options.to}", hint=f"--to {target}")
    if target == "bin":
        from bertgpt.data.loading.export_bin import to_bin

        return to_bin(path, out, options.overwrite)
    from bertgpt.hub.to_hf import export_hf

    return export_hf(path, out, options.overwrite)


def export_format(path: Path) -> str:
    """The format that a folder is exported to: hf for a model, bin for shards."""
    from bertgpt.data.format import read_manifest, resolve_artifact

    return "hf" if read_manifest(resolve_artifact(path))["kind"] == "model" else "bin"


def show(result: dict[str, Any], console: Console) -> None:
    """Print the files that were written."""
    kind = f"{result['dtype']} ids" if result["kind"] == "bin" else result["architecture"]
    console.heading(f"{kind} in {result['path']}")
    columns = [key for key in ("tokens", "bytes") if key in result["files"][0]]
    rows = [[format_number(file[key]) for key in ("path", *columns)] for file in result["files"]]
    console.table(("file", *columns), rows)
    if (difference := result.get("max_logit_difference")) is not None:
        console.text()
        console.text(f"logits of bertgpt and transformers differ by at most {difference:.1g}")
