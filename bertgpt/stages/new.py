"""`bertgpt new`: write a starter project for DVC."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from bertgpt.config.options import NewOptions
from bertgpt.utils.console import Console
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import atomic_write, ensure_writable_folder


def run(options: NewOptions) -> dict[str, Any]:
    """Write the files into a new or empty folder; returns their names."""
    folder, content = Path(options.folder), project_files()
    if not is_written(folder, content):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            hint = "choose a new or an empty folder"
            raise BertGPTError("BG213", "output already exists", path=str(folder), hint=hint)
        ensure_writable_folder(folder)
        for name, data in content.items():
            with atomic_write(folder / name) as temporary:
                temporary.write_bytes(data)
    return {"path": options.folder, "files": list(content)}


def project_files() -> dict[str, bytes]:
    """The files of the starter project; the template of .gitignore has no dot, or it would apply to this package."""
    templates = {file.name: file.read_bytes() for file in files("bertgpt.stages").joinpath("starter").iterdir()}
    return dict(sorted((".gitignore" if name == "gitignore" else name, data) for name, data in templates.items()))


def is_written(folder: Path, content: dict[str, bytes]) -> bool:
    """Whether a folder has these files already, unchanged."""
    return all((folder / name).is_file() and (folder / name).read_bytes() == data for name, data in content.items())


def show(result: dict[str, Any], console: Console) -> None:
    """Print the files and what to do next."""
    console.heading(f"{', '.join(result['files'])} in {result['path']}")
    console.text(f"cd {result['path']} && git init && dvc init && dvc repro")
