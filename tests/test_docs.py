"""What README and docs show is what the code prints."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertgpt.cli import registry

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def transcripts() -> list[Any]:
    """Every `$ bertgpt ...` in a code block, with what the block says it prints."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```\n(\$ .*?)```", page.read_text(encoding="utf-8"), re.S):
            for part in block.split("$ ")[1:]:
                command, _, printed = part.partition("\n")
                found.append(pytest.param(command, printed, id=f"{page.name}: {command}"))
    return found


@pytest.mark.parametrize(("line", "printed"), transcripts())
def test_transcripts_are_true(line: str, printed: str, run: Callable[..., Any]) -> None:
    program, *argv = shlex.split(line)
    assert program == "bertgpt"
    assert run(*argv).out.strip() == printed.strip()


def test_the_readme_names_every_command_and_no_other() -> None:
    table = re.findall(r"^\| `bertgpt (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert list(dict.fromkeys(table)) == list(registry.COMMANDS)


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "benchmarks" / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
