"""The commands, in the order of the pipeline.

A command is a module here with `run(options)`, which returns what `--json` calls `result` and so does its Python
function, and `show(result, console)`, which prints it for people.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from bertgpt.config import InspectOptions, Options, arguments, resolve

COMMANDS: dict[str, type[Options]] = {
    "inspect": InspectOptions,
}


def module(command: str) -> ModuleType:
    """The module of a command, imported when it is needed and not before."""
    return import_module(f"bertgpt.commands.{command}")


def function(command: str, name: str) -> Callable[..., dict[str, Any]]:
    """A command as a Python function of this name."""
    model = COMMANDS[command]

    def call(*positional: Any, **options: Any) -> dict[str, Any]:
        given = dict(zip(arguments(model), positional, strict=False)) | options
        result: dict[str, Any] = module(command).run(resolve(model, given).options)
        return result

    call.__name__ = call.__qualname__ = name
    call.__doc__ = model.__doc__
    call.__signature__ = inspect.signature(model)  # type: ignore[attr-defined]
    return call
