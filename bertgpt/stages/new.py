"""`bertgpt new`: write a starter project for DVC."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from bertgpt.config.options import NewOptions
from bertgpt.utils.console import Console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import atomic_write, ensure_writable_folder

NAMES = {"gitignore": ".gitignore"}  # without its dot, it would apply to this package


def run(options: NewOptions) -> dict[str, Any]:
    """Write the files into a new or empty folder; returns their names."""
    folder = Path(options.folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BertGPTError("BG213", "output already exists", path=str(folder), hint="choose a new or an empty folder")
    ensure_writable_folder(folder)
    written = []
    for template in sorted(files("bertgpt.stages").joinpath("starter").iterdir(), key=lambda file: file.name):
        name = NAMES.get(template.name, template.name)
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(template.read_bytes())
        written.append(name)
    return {"path": options.folder, "files": written}


def show(result: dict[str, Any], console: Console) -> None:
    """Print the files and what to do next."""
    console.heading(f"{', '.join(result['files'])} in {result['path']}")
    console.text(f"cd {result['path']} && git init && dvc init && dvc repro")
