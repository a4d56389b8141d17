"""Run a command line: exit codes, signals and the display of results and errors. No work is done here."""

import os
import signal
import sys
from typing import Any

from bertgpt.cli import registry
from bertgpt.cli.parser import Request, parse
from bertgpt.config.resolve import ResolvedOptions, resolve
from bertgpt.utils import console as console_module
from bertgpt.utils.console import Console, flush, prepare_streams, silence, write, write_stderr
from bertgpt.utils.errors import BROKEN_PIPE, INTERRUPTED, TERMINATED, BertGPTError


class Terminated(KeyboardInterrupt):
    """SIGTERM, so that everything that cleans up after Ctrl-C cleans up after it too."""


def run(argv: list[str]) -> int:
    """Run a command line and return the exit code; raises nothing."""
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
        console.info(f"terminated{resume_message(argv)}")
        return TERMINATED
    except KeyboardInterrupt:
        console.info(f"interrupted{resume_message(argv)}")
        return INTERRUPTED


def terminate(signum: int, frame: Any) -> None:
    """The handler of SIGTERM."""
    raise Terminated


def resume_message(argv: list[str]) -> str:
    """How to continue after an interrupt: commands that write an output folder resume."""
    model = registry.COMMANDS.get(argv[0]) if argv else None
    return "; rerun the same command to resume" if model and "out" in model.model_fields else ""


def run_reporting_errors(argv: list[str], console: Console) -> int:
    """Run a command line, report every error but interrupts and closed pipes, and return the exit code."""
    try:
        try:
            execute(parse(argv), console)
            flush()
            return 0
        except SystemExit as done:  # Typer exits by itself after shell completion
            return done.code if isinstance(done.code, int) else 0
        except BertGPTError as error:
            report = error
        except BrokenPipeError:
            raise
        except MemoryError:
            report = BertGPTError("BG406", "out of memory")
        except Exception as error:
            report = internal_error(error)
        console.error(report)
        flush()
    except BertGPTError as error:  # stdout cannot be written
        console.error(error)
        report = error
    return report.exit_code


def execute(request: Request | str, console: Console) -> None:
    """Resolve the options of a request, run its command and print the result. A help page is only printed."""
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
    command = registry.stage_module(request.command)
    console_module.current = console
    try:
        result = registry.run_stage(request.command, resolved.options)
    finally:
        console_module.current = None
    if console.json:
        console.result(request.command, result)
    else:
        command.show(result, console)


def show_config(request: Request, resolved: ResolvedOptions, console: Console) -> None:
    """Print every option with its value and where the value comes from."""
    values = resolved.options.model_dump(mode="json")
    if console.json:
        shown = {name: {"value": value, "source": str(resolved.origins[name])} for name, value in values.items()}
        console.result(request.command, shown)
    else:
        rows = ((n, "" if value is None else str(value), str(resolved.origins[n])) for n, value in values.items())
        console.table(("option", "value", "source"), rows)


def internal_error(error: Exception) -> BertGPTError:
    """The error for an unexpected exception, whose traceback is saved to a file."""
    import traceback

    trace = "".join(traceback.format_exception(error))
    if os.environ.get("BERTGPT_DEBUG") == "1":
        write_stderr(trace)
    path = save_traceback(trace)
    return BertGPTError(
        "BG101",
        f"this is a bug in bertgpt: {type(error).__name__}: {error}",
        path=path,
        hint="please report it with the file named above" if path else "BERTGPT_DEBUG=1 prints the traceback",
    )


def save_traceback(trace: str) -> str | None:
    """Save a traceback in the user's cache; None if that fails."""
    from bertgpt.utils.files import cache_folder

    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "last-error.txt"
        file.write_text(trace, encoding="utf-8", errors="backslashreplace")
    except (OSError, RuntimeError):
        return None
    return str(file)
