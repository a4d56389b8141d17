"""The Typer app, built from the options of the commands: parses a command line and prints the help pages.

Typer only splits the arguments. Their values are checked by `config.resolve`, so that a wrong value gives the same
error whether it comes from the command line, a config file or Python.
"""

import inspect
import io
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperCommand, TyperGroup

from bertgpt.cli.registry import COMMANDS
from bertgpt.config.fields import (
    COMMON_OPTIONS,
    PANELS,
    Options,
    arguments,
    base_type,
    choices,
    default_note,
    flag_name,
    flag_names,
    metavar,
    panel_of,
    takes_several,
)
from bertgpt.utils.console import supports_color
from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr
from bertgpt.utils.version import __version__

MAIN_OPTIONS = ["--version", "--install-completion", "--show-completion", "--help"]
CONTEXT = {
    "help_option_names": ["--help", "-h"],
    "token_normalize_func": lambda word: word.replace("_", "-"),  # the keys of params.yaml are options too
}


@dataclass(frozen=True)
class Request:
    """A parsed command line."""

    command: str
    given: dict[str, Any]
    config: str | None
    show_config: bool
    json: bool
    quiet: bool


def parse(argv: list[str]) -> Request | str:
    """Parse a command line: the command to run with its options, or a page to print."""
    words = [word for word in argv if word != "--"]
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        raise BertGPTError(
            "BG201",
            f"no such command: {short_repr(words[0])}",
            cause=f"the commands are {', '.join(COMMANDS)}",
            hint=did_you_mean(words[0], COMMANDS) or "bertgpt --help lists the commands",
        )
    try:
        app = build_app([argv[0]] if argv and argv[0] in COMMANDS else COMMANDS)  # one command: builds faster
        parsed = app(argv or ["--help"], prog_name="bertgpt", standalone_mode=False)
    except PrintPage as page:
        return page.text
    except typer.TyperException as error:
        raise usage_error(words, error) from None
    assert isinstance(parsed, Request)
    return parsed


def usage_error(words: list[str], error: typer.TyperException) -> BertGPTError:
    """The error for a command line that Typer rejects."""
    model = COMMANDS.get(words[0])
    page = f"bertgpt {words[0]} --help" if model else "bertgpt --help"
    option = getattr(error, "option_name", None)
    if isinstance(option, str) and type(error).__name__ == "NoSuchOption":
        if model is None and option[2:].replace("-", "_") in COMMON_OPTIONS:
            return BertGPTError("BG202", f"{option} must follow the command", hint=page)
        hint = model.renamed(option.removeprefix("--")) if model else None
        hint = hint or did_you_mean(option.replace("_", "-"), known_options(model)) or page
        return BertGPTError("BG202", f"no such option: {option}", hint=hint)
    message = error.format_message().rstrip(".")
    return BertGPTError("BG203", message[0].lower() + message[1:], hint=page)


def known_options(model: type[Options] | None) -> list[str]:
    """Every option of a command, or of `bertgpt` itself, as it is typed."""
    if model is None:
        return MAIN_OPTIONS
    own = [(key, field) for key, field in model.model_fields.items() if key not in arguments(model)]
    return [*(flag for key, field in own for flag in flag_names(key, field)), *map(flag_name, COMMON_OPTIONS), "--help"]


# ------------------------------------------------------------------------------------------------- help pages


class PrintPage(Exception):
    """Raised to print a page instead of running a command; Typer itself would hide that stdout is closed or full."""

    def __init__(self, text: str) -> None:
        self.text = text


class PageBuffer(io.StringIO):
    """Collects a help page for stdout, on which rich prints in color if it is a terminal."""

    is_terminal = False

    def isatty(self) -> bool:
        return self.is_terminal


def import_rich_help() -> None:
    """Import Typer's rich help without two modules that it imports, but that no page uses: half of the import time."""
    unused = {"rich.markdown": "Markdown", "rich.traceback": "Traceback"}
    for module, name in unused.items():
        if module not in sys.modules:
            sys.modules[module] = stand_in = ModuleType(module)
            setattr(stand_in, name, type(name, (), {}))
    try:
        import_module("typer.rich_utils")
    finally:
        for module in unused:
            if not getattr(sys.modules[module], "__spec__", None):
                del sys.modules[module]


def print_help(format_help: Callable[[Any, Any], None], ctx: Any, formatter: Any) -> None:
    """Have Typer format a help page, and raise it as text."""
    buffer = PageBuffer()
    buffer.is_terminal = supports_color(sys.stdout)
    import_rich_help()
    with redirect_stdout(buffer):
        format_help(ctx, formatter)
    page = "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()).strip("\n") + "\n"
    if not buffer.is_terminal:  # $FORCE_COLOR would color pipes too
        page = re.sub(r"\x1b\[[0-9;]*m", "", page)
    raise PrintPage(page)


class MainHelp(TyperGroup):
    """`bertgpt --help`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for param in self.get_params(ctx):
            param.metavar = ""  # not <bool>
        print_help(super().format_help, ctx, formatter)


class CommandHelp(TyperCommand):
    """`bertgpt COMMAND --help`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        model = COMMANDS[str(self.name)]
        param: Any
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                param.display_type_rich = lambda ctx: None  # not <str>
                continue
            field = model.model_fields.get(str(param.name))
            is_off = field is not None and field.default is False  # both names in one column, or only --name
            names = sorted(param.opts)  # --help before -h
            param.opts = names if is_off else [" / ".join([*names, *param.secondary_opts])]
            param.secondary_opts = []
        print_help(super().format_help, ctx, formatter)

    def get_help_option(self, ctx: Any) -> Any:
        option: Any = super().get_help_option(ctx)
        option.help, option.metavar, option.rich_help_panel = "Show this page and exit.", "", "Run"
        return option

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*arguments(COMMANDS[str(self.name)]).values(), "[OPTIONS]"]


def command_help(model: type[Options]) -> str:
    """The help text of a command: each paragraph of its docstring on one line."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (model.__doc__ or "").split("\n\n"))


def examples(model: type[Options]) -> str:
    """The examples of a command; a long one is continued before an option, as a shell reads it."""
    lines = ["Examples:"]
    for example in model.examples:
        lines.append("")
        for part in re.split(r" (?=--)", example):
            if len(lines[-1]) + len(part) > 70:
                lines[-1] += " \\"
                lines.append("   ")
            lines[-1] += f" {part}"
    return "\n".join(lines)


def option_metavar(field: FieldInfo) -> str:
    """The placeholder for the value of an option; many choices are broken into lines of a table column."""
    text = "" if base_type(field) is bool else metavar(field)
    return re.sub(r"(.{4,16}\|)", r"\1\n", text) if len(text) > 17 else text


def option_help(model: type[Options], key: str) -> str:
    """The help of an option or argument, with its default."""
    note, text = default_note(model, key), str(model.model_fields[key].description)
    return f"{text} [dim]\\[{note}][/dim]" if note else text


# -------------------------------------------------------------------------------------------------- Typer app


def build_app(commands: Iterable[str]) -> typer.Typer:
    """The Typer app with these commands."""
    app = typer.Typer(cls=MainHelp, context_settings=CONTEXT, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.callback()(main_options)
    for name in commands:
        model = COMMANDS[name]
        app.command(name, cls=CommandHelp, help=command_help(model), epilog=examples(model), context_settings=CONTEXT)(
            make_endpoint(name, model)
        )
    return app


def print_version(requested: bool) -> None:
    """Print the version instead of running a command."""
    if requested:
        raise PrintPage(f"bertgpt {__version__}\n")


def main_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Pretrain BERT and GPT from scratch, with one architecture and one trainer.

    COUNT in the help pages is a number with an optional unit: 250k, 1.5M, 10B, 64MiB.
    """


def make_endpoint(name: str, model: type[Options]) -> Callable[..., Request]:
    """The function whose signature declares the options of a command to Typer; it returns what was given."""

    def collect(**values: Any) -> Request:
        common = {key: values.pop(f"common_{key}") for key in COMMON_OPTIONS}
        return Request(name, {key: value for key, value in values.items() if value is not None}, **common)

    fields = sorted(model.model_fields.items(), key=lambda item: PANELS.index(panel_of(item[1])))
    parameters = [typer_parameter(model, key, field) for key, field in fields]
    for key, (text, value) in COMMON_OPTIONS.items():
        kind, default = (str | None, None) if value else (bool, False)
        option = typer.Option(flag_name(key), help=text, metavar=value, show_default=False, rich_help_panel="Run")
        parameters.append(keyword_parameter(f"common_{key}", Annotated[kind, option], default))
    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    collect.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return collect


def typer_parameter(model: type[Options], key: str, field: FieldInfo) -> inspect.Parameter:
    """A field as a Typer parameter. Values stay text: the options model checks them."""
    kind: Any = list[str] if takes_several(field) else str
    if panel_of(field) == "Arguments":
        positional = typer.Argument(metavar=metavar(field), help=option_help(model, key))
        return keyword_parameter(key, Annotated[kind | None, positional], None)  # may come from a config file instead
    option = typer.Option(
        "/".join(flag_names(key, field)),
        help=option_help(model, key),
        metavar=option_metavar(field),
        rich_help_panel=panel_of(field),
        autocompletion=completer(field),
    )
    kind = bool if base_type(field) is bool else kind
    return keyword_parameter(key, Annotated[kind | None, option], None)


def completer(field: FieldInfo) -> Callable[[str], list[str]] | None:
    """Shell completion for an option with a fixed set of choices."""
    words = choices(field)
    return (lambda incomplete: [word for word in words if word.startswith(incomplete)]) if words else None


def keyword_parameter(key: str, annotation: Any, default: Any) -> inspect.Parameter:
    """A keyword-only parameter."""
    return inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
