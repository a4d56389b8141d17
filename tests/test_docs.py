"""README and docs: transcripts, command and option lists, and links match the code."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertgpt.cli import registry
from bertgpt.config.fields import (
    COMMON_OPTIONS,
    PANELS,
    arguments,
    default_note,
    flag_name,
    flag_names,
    metavar,
    panel_of,
)
from bertgpt.config.renamed import RENAMED_OPTIONS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


OPTIONS_PAGE = ROOT / "docs" / "options.md"


def transcripts() -> list[Any]:
    """Every `$ bertgpt ...` in a code block, with the output that the block shows."""
    params = []
    for page in PAGES:
        for block in re.findall(r"```\n(\$ .*?)```", page.read_text(encoding="utf-8"), re.S):
            for part in block.split("$ ")[1:]:
                command, _, output = part.partition("\n")
                params.append(pytest.param(command, output, id=f"{page.name}: {command}"))
    return params


@pytest.mark.parametrize(("line", "output"), transcripts())
def test_transcripts_match_the_output(line: str, output: str, run: Callable[..., Any]) -> None:
    program, *argv = shlex.split(line)
    assert program == "bertgpt"
    assert run(*argv).out.strip() == output.strip()


def options_page() -> str:
    """The text of docs/options.md: every option of every command, and the renamed ones."""
    lines = [
        "# Options",
        "",
        "Every option of every command, in the groups of `bertgpt COMMAND --help`. In config files and in Python, an",
        "option has the same name without `--` and with `_` for `-`, and a switch is true or false.",
        "",
        "Every command also has",
        "",
        *(f"- `{f'{flag_name(key)} {value}'.strip()}`: {text}" for key, (text, value) in COMMON_OPTIONS.items()),
        "- `--help`: Show the help page and exit.",
    ]
    for name, model in registry.COMMANDS.items():
        lines += ["", f"## bertgpt {' '.join([name, *arguments(model).values()])}", ""]
        lines += [(model.__doc__ or "").partition("\n")[0], "", "| option | default | |", "|---|---|---|"]
        for panel in PANELS:
            fields = [(key, field) for key, field in model.model_fields.items() if panel_of(field) == panel]
            lines += [f"| **{panel}** | | |"] if fields else []
            for key, field in fields:
                names = flag_names(key, field)[: 1 if field.default is False else 2]
                value = "" if len(flag_names(key, field)) == 2 else f" {metavar(field)}"
                option = metavar(field) if panel == "Arguments" else " / ".join(names) + value
                default = default_note(model, key).removeprefix("default: ")
                lines += [f"| `{option.replace('|', chr(92) + '|')}` | {default} | {field.description} |"]
    lines += [
        "",
        "## Renamed options",
        "",
        "An old name gives an error that has the new one.",
        "",
        "| old | new | commands |",
        "|---|---|---|",
    ]
    renamed: dict[tuple[str, str], list[str]] = {}
    for name, table in RENAMED_OPTIONS.items():
        for old, new in table.items():
            renamed.setdefault((old, new), []).append(name)
    lines += [f"| `--{old}` | {code(f'--{new}')} | {', '.join(names)} |" for (old, new), names in renamed.items()]
    return "\n".join(lines) + "\n"


def code(text: str) -> str:
    """A text with its options as code."""
    return re.sub(r"--[\w-]+(?: (?!or\b)\w+)?", r"`\g<0>`", text)


def test_options_page_is_up_to_date() -> None:
    """To accept a change, delete the page and run this once."""
    if not OPTIONS_PAGE.exists():
        OPTIONS_PAGE.write_text(options_page(), encoding="utf-8")
        pytest.fail("wrote docs/options.md: check it and commit it")
    assert OPTIONS_PAGE.read_text(encoding="utf-8") == options_page()


def test_readme_lists_every_command() -> None:
    table = re.findall(r"^\| `bertgpt (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert list(dict.fromkeys(table)) == list(registry.COMMANDS)


def test_links_between_pages_exist() -> None:
    for page in [*PAGES, ROOT / "benchmarks" / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
