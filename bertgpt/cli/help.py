"""The help pages, written from the options themselves, so that they look the same under every version of Typer."""

import shutil
import sys
from collections.abc import Iterable, Mapping
from textwrap import wrap

from pydantic.fields import FieldInfo

from bertgpt.config.fields import (
    COMMON,
    UNITS,
    Options,
    arguments,
    base_type,
    choices,
    flag_name,
    is_parsed_by,
    parse_count,
    parse_duration,
    takes_several,
)
from bertgpt.utils.console import supports_color

METAVARS = {int: "INTEGER", float: "NUMBER"}
WIDEST, NARROWEST = 100, 20

GENERAL = {
    "--version": "Print the version and exit.",
    "--install-completion": "Install completion for the current shell.",
    "--show-completion": "Print the completion script of the current shell.",
    "--help, -h": "Print this page, or that of a command.",
}


def main_page(commands: Mapping[str, type[Options]]) -> str:
    """What `bertgpt --help` prints."""
    intro = (
        "Pretrain BERT and GPT from scratch, as the same model. The commands stand in the order of the pipeline; each "
        "also stands alone."
    )
    return page(
        "bertgpt COMMAND [OPTIONS]",
        intro,
        {
            "Commands": [(name, summary(model)) for name, model in commands.items()],
            "Options": list(GENERAL.items()),
        },
        ["bertgpt COMMAND --help"],
    )


def command_page(name: str, model: type[Options]) -> str:
    """What `bertgpt COMMAND --help` prints."""
    places = arguments(model)
    own = [(key, field) for key, field in model.model_fields.items() if key not in places]
    return page(
        " ".join(["bertgpt", name, *(argument.metavar for argument in places.values()), "[OPTIONS]"]),
        " ".join((model.__doc__ or "").split()),
        {
            "Arguments": [(a.metavar, model.model_fields[key].description or "") for key, a in places.items()],
            "Options": [(option_signature(key, field), option_help(field)) for key, field in own],
            "Common options": [
                *((f"{flag_name(key)} {flag.metavar}".strip(), flag.help) for key, flag in COMMON.items()),
                ("--help, -h", "Print this page."),
            ],
        },
        model.examples,
    )


def summary(model: type[Options]) -> str:
    """The first sentence of what a command does."""
    return (model.__doc__ or "").split("\n")[0]


def flag_words(key: str, field: FieldInfo) -> list[str]:
    """All the words that set an option: two for a switch."""
    return [flag_name(key), "--no-" + flag_name(key)[2:]] if base_type(field) is bool else [flag_name(key)]


def option_signature(key: str, field: FieldInfo) -> str:
    """An option with what it takes."""
    if base_type(field) is bool:
        return flag_name(key) if field.default is False else "/".join(flag_words(key, field))
    return f"{flag_name(key)} {metavar(field)}"


def metavar(field: FieldInfo) -> str:
    """What stands for a value."""
    for reads, name in ((parse_count, "COUNT"), (parse_duration, "TIME")):
        if is_parsed_by(reads, field):
            return name
    return "NAME" if choices(field) else METAVARS.get(base_type(field), "TEXT")


def option_help(field: FieldInfo) -> str:
    """The help of an option, the words it takes and its default."""
    text = field.description or ""
    if words := choices(field):
        text += f" One of {', '.join(words)}."
    if takes_several(field):
        text += " May be given several times."
    if field.default is not None and field.default is not False and field.default != [] and not field.is_required():
        text += f" Default: {format_default(field)}."
    return text


def format_default(field: FieldInfo) -> str:
    """A default as people would type it."""
    if field.default is True:
        return "yes"
    for unit in ("B", "M", "k"):
        if is_parsed_by(parse_count, field) and field.default and field.default % UNITS[unit] == 0:
            return f"{field.default // UNITS[unit]}{unit}"
    return str(field.default)


def page(usage: str, intro: str, sections: Mapping[str, list[tuple[str, str]]], examples: Iterable[str]) -> str:
    """A help page for the width of the terminal."""
    width = max(NARROWEST, min(shutil.get_terminal_size().columns, WIDEST))
    lines = [*wrap(f"Usage: {usage}", width, subsequent_indent="  "), "", *wrap(intro, width)]
    column = min(24, 4 + max(len(term) for rows in sections.values() for term, _ in rows))
    for title, rows in sections.items():
        if rows:
            lines += ["", heading(title)]
        for term, text in rows:
            lines += row(term, text, column, width)
    shown = (" \\\n      ".join(wrap(example, width - 8, break_on_hyphens=False)) for example in examples)
    return "\n".join([*lines, "", heading("Examples"), *(f"  {example}" for example in shown), ""])


def row(term: str, text: str, column: int, width: int) -> list[str]:
    """A term with its explanation beside it, or below where there is no room."""
    if width < 2 * column:
        return [f"  {term}", *wrap(text, width, initial_indent="    ", subsequent_indent="    ")]
    first, *rest = wrap(text, width - column) or [""]
    beside = len(term) + 4 <= column
    start = [f"  {term}".ljust(column) + first] if beside else [f"  {term}", " " * column + first]
    return start + [" " * column + line for line in rest]


def heading(title: str) -> str:
    """A title, bold where that is welcome."""
    return f"\x1b[1m{title}\x1b[0m" if supports_color(sys.stdout) else title
