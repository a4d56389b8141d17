"""`bertgpt export`: an artefact in the form that other tools read."""

from pathlib import Path
from typing import Any

from bertgpt.config.options import ExportOptions
from bertgpt.utils.console import Console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.tables import format_number


def run(options: ExportOptions) -> dict[str, Any]:
    """Do it."""
    path, out = Path(options.path), Path(options.out)
    form = form_of(path)
    if options.to not in (None, form):
        holds = {"bin": "shards", "hf": "a model"}[form]
        raise BertGPTError("BG204", f"{path} holds {holds}, and cannot become {options.to}", hint=f"--to {form}")
    if form == "bin":
        from bertgpt.data.loading.export_bin import to_bin

        return to_bin(path, out, options.overwrite)
    from bertgpt.hub.to_hf import export_hf

    return export_hf(path, out, options.overwrite)


def form_of(path: Path) -> str:
    """What a folder can become."""
    from bertgpt.data.format import read_manifest, resolve_artifact

    return "hf" if read_manifest(resolve_artifact(path))["kind"] == "model" else "bin"


def show(result: dict[str, Any], console: Console) -> None:
    """Print what was written."""
    keys = [key for key in ("tokens", "bytes") if key in result["files"][0]]
    if result["kind"] == "bin":
        console.heading(f"{result['dtype']} ids in {result['path']}")
    else:
        console.heading(f"{result['architecture']} in {result['path']}")
    console.table(("file", *keys), [[format_number(file[key]) for key in ("path", *keys)] for file in result["files"]])
    if result.get("difference") is not None:
        console.text()
        console.text(f"read again by transformers: its logits differ by {result['difference']:.1g} at most")
