"""The command line: a Typer app made from the options of the commands, exit codes and the display of errors.

Typer takes the arguments apart. Checking values, running commands and reporting errors are ours, so that
a wrong value is answered alike whether it came from a flag, a config file or Python.
"""

import inspect
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperCommand, TyperGroup

from bertgpt.cli import registry
from bertgpt.cli.help import GENERAL, command_page, flag_words, main_page, summary
from bertgpt.config.fields import (
    COMMON,
    Options,
    PositionalArgument,
    arguments,
    base_type,
    choices,
    flag_name,
    takes_several,
)
from bertgpt.config.resolve import ResolvedOptions, resolve
from bertgpt.utils import console as console_module
from bertgpt.utils.console import Console, flush, prepare_streams, silence, write, write_stderr
from bertgpt.utils.errors import BROKEN_PIPE, INTERRUPTED, TERMINATED, BertGPTError, did_you_mean, short_repr
from bertgpt.utils.version import __version__


@dataclass(frozen=True)
class Request:
    """A command line that Typer has taken apart."""

    command: str
    given: dict[str, Any]
    config: str | None
    show_config: bool
    json: bool
    quiet: bool


def run(argv: list[str]) -> int:
    """Do what a command line says; returns the exit code and lets no exception out."""
    stdout_is_closed = sys.stdout is None
    prepare_streams()
    before = argv[: argv.index("--")] if "--" in argv else argv
    console = Console(json="--json" in before, quiet="--quiet" in before)
    signal.signal(signal.SIGTERM, terminate)
    try:
        code = run_reporting_errors(argv, console)
        return BROKEN_PIPE if stdout_is_closed and code == 0 else code
    except BrokenPipeError:
        silence(sys.stdout)
        return BROKEN_PIPE
    except Terminated:
        console.note(f"terminated{resume_message(argv)}")
        return TERMINATED
    except KeyboardInterrupt:
        console.note(f"interrupted{resume_message(argv)}")
        return INTERRUPTED


def resume_message(argv: list[str]) -> str:
    """What becomes of a command that was stopped: those that write a folder lose nothing."""
    model = registry.COMMANDS.get(argv[0]) if argv else None
    return "; the same command goes on where this one was" if model and "out" in model.model_fields else ""


class Terminated(KeyboardInterrupt):
    """SIGTERM: whatever cleans up after Ctrl-C cleans up after this as well."""


def terminate(signum: int, frame: Any) -> None:
    """What SIGTERM does."""
    raise Terminated


def run_reporting_errors(argv: list[str], console: Console) -> int:
    """The same with every other error reported on the console."""
    try:
        try:
            execute(parse(argv), console)
            flush()
            return 0
        except SystemExit as done:  # Typer has answered by itself: completion
            return done.code if isinstance(done.code, int) else 0
        except BertGPTError as error:
            report = error
        except BrokenPipeError:
            raise
        except MemoryError:
            report = BertGPTError("BG406", "there is not enough memory")
        except Exception as error:
            report = internal_error(error)
        console.error(report)
        flush()
    except BertGPTError as error:  # stdout did not take it
        console.error(error)
        report = error
    return report.exit_code


def execute(request: Request | str, console: Console) -> None:
    """Resolve the options of a request, run its command and show the result. A page is just printed."""
    if isinstance(request, str):
        write(request)
        return
    console.json, console.quiet = request.json, request.quiet
    config = None
    if request.config is not None:
        from bertgpt.config.yaml_files import read_section

        config = read_section(request.config)
    resolved = resolve(registry.COMMANDS[request.command], request.given, config)
    if request.show_config:
        show_config(request, resolved, console)
        return
    command = registry.module(request.command)
    console_module.current = console
    try:
        result = command.run(resolved.options)
    finally:
        console_module.current = None
    if console.json:
        console.result(request.command, result)
    else:
        command.show(result, console)


def show_config(request: Request, resolved: ResolvedOptions, console: Console) -> None:
    """Every option with its value and where that came from."""
    values = resolved.options.model_dump(mode="json")
    if console.json:
        shown = {name: {"value": value, "source": str(resolved.origins[name])} for name, value in values.items()}
        console.result(request.command, shown)
    else:
        rows = ((n, "" if value is None else str(value), str(resolved.origins[n])) for n, value in values.items())
        console.table(("option", "value", "source"), rows)


def internal_error(error: Exception) -> BertGPTError:
    """The report of an exception that should not have happened; its traceback goes to a file."""
    import traceback

    trace = "".join(traceback.format_exception(error))
    if os.environ.get("BERTGPT_DEBUG") == "1":
        write_stderr(trace)
    where = save_traceback(trace)
    return BertGPTError(
        "BG101",
        f"this is a bug in bertgpt: {type(error).__name__}: {error}",
        path=where,
        hint="please report it with the file named above" if where else "BERTGPT_DEBUG=1 shows where it happened",
    )


def save_traceback(trace: str) -> str | None:
    """Write a traceback to the user's cache; None where that cannot be done."""
    from bertgpt.utils.files import cache_folder

    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "last-error.txt"
        file.write_text(trace, encoding="utf-8", errors="backslashreplace")
    except (OSError, RuntimeError):
        return None
    return str(file)


# ------------------------------------------------------------------------------------------------ arguments


def parse(argv: list[str]) -> Request | str:
    """Take a command line apart: what to run, or the page to print."""
    words = [word for word in argv if word != "--"]
    if words and not words[0].startswith("-") and words[0] not in registry.COMMANDS:
        raise BertGPTError(
            "BG201",
            f"there is no command {short_repr(words[0])}",
            cause=f"the commands are {', '.join(registry.COMMANDS)}",
            hint=did_you_mean(words[0], registry.COMMANDS) or "bertgpt --help lists the commands",
        )
    try:
        parsed = app()(argv or ["--help"], prog_name="bertgpt", standalone_mode=False)
    except PrintPage as page:
        return page.text
    except typer.TyperException as error:
        raise usage_error(words, error) from None
    assert isinstance(parsed, Request)
    return parsed


def usage_error(words: list[str], error: typer.TyperException) -> BertGPTError:
    """Typer's complaint in our shape."""
    model = registry.COMMANDS.get(words[0])
    page = f"bertgpt {words[0]} --help" if model else "bertgpt --help"
    option = getattr(error, "option_name", None)
    if isinstance(option, str) and type(error).__name__ == "NoSuchOption":
        if model is None and option[2:] in COMMON:
            return BertGPTError("BG202", f"{option} stands after the command", hint=page)
        near = did_you_mean(option.replace("_", "-"), known_flags(model))
        return BertGPTError("BG202", f"there is no option {short_repr(option)}", hint=near or page)
    message = error.format_message().rstrip(".")
    return BertGPTError("BG203", message[0].lower() + message[1:], hint=page)


def known_flags(model: type[Options] | None) -> list[str]:
    """Every option of a command, or of `bertgpt` itself, as it is typed."""
    if model is None:
        return [term.split(",")[0] for term in GENERAL]
    own = [(key, field) for key, field in model.model_fields.items() if key not in arguments(model)]
    return [*(w for key, field in own for w in flag_words(key, field)), *map(flag_name, COMMON), "--help"]


class PrintPage(Exception):
    """A page is to be printed instead of running anything; we print it, since Typer would swallow a closed pipe."""

    def __init__(self, text: str) -> None:
        self.text = text


class MainHelp(TyperGroup):
    """`bertgpt` with our help page."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        raise PrintPage(main_page(registry.COMMANDS))


class CommandHelp(TyperCommand):
    """A command with our help page."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        raise PrintPage(command_page(str(self.name), registry.COMMANDS[str(self.name)]))


def app() -> typer.Typer:
    """The Typer app, made from the options of the commands."""
    main = typer.Typer(
        cls=MainHelp,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    main.callback()(root_callback)
    settings = {"token_normalize_func": lambda word: word.replace("_", "-")}  # so that params.yaml's keys are options
    for name, model in registry.COMMANDS.items():
        main.command(name, cls=CommandHelp, help=summary(model), context_settings=settings)(make_endpoint(name, model))
    return main


def print_version(wanted: bool) -> None:
    """Answer --version."""
    if wanted:
        raise PrintPage(f"bertgpt {__version__}\n")


def root_callback(
    version: Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True)] = False,
) -> None:
    """The options of `bertgpt` itself."""


def make_endpoint(name: str, model: type[Options]) -> Callable[..., Request]:
    """The function whose signature tells Typer the options of a command; it only packs up what was given."""

    def packed(**values: Any) -> Request:
        common = {key: values.pop(f"common_{key}") for key in COMMON}
        return Request(name, {key: value for key, value in values.items() if value is not None}, **common)

    parameters = [typer_parameter(key, field, arguments(model).get(key)) for key, field in model.model_fields.items()]
    for key, flag in COMMON.items():
        kind, default = (str | None, None) if flag.metavar else (bool, False)
        parameters.append(
            keyword_parameter(f"common_{key}", Annotated[kind, typer.Option(flag_name(key), help=flag.help)], default)
        )
    packed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    packed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return packed


def typer_parameter(key: str, field: FieldInfo, argument: PositionalArgument | None) -> inspect.Parameter:
    """A field as a Typer parameter. Values stay text here: checking them is left to the options model."""
    if argument is not None:
        given = list[str] if takes_several(field) else str
        return keyword_parameter(
            key, Annotated[given | None, typer.Argument(metavar=argument.metavar)], None
        )  # or from a config
    raw = bool if base_type(field) is bool else list[str] if takes_several(field) else str
    option = typer.Option("/".join(flag_words(key, field)), help=field.description, autocompletion=completer(field))
    return keyword_parameter(key, Annotated[raw | None, option], None)


def completer(field: FieldInfo) -> Callable[[str], list[str]] | None:
    """Shell completion for an option that takes certain words."""
    words = choices(field)
    return (lambda incomplete: [word for word in words if word.startswith(incomplete)]) if words else None


def keyword_parameter(key: str, annotation: Any, default: Any) -> inspect.Parameter:
    """A keyword parameter."""
    return inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
