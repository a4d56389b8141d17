"""The commands, in the order of the pipeline, and their Python functions.

A command is a module of `stages` with `run(options)`, which returns the `result` of `--json` and of the Python
function, and `show(result, console)`, which prints it.
"""

from collections.abc import Callable
from importlib import import_module
from inspect import Parameter, Signature  # `bertgpt.inspect` is a command
from types import ModuleType
from typing import Any

from bertgpt.config.data_options import MaskOptions, ShardOptions, TokenizeOptions
from bertgpt.config.fields import Options, arguments, takes_several
from bertgpt.config.options import (
    EvalOptions,
    ExportOptions,
    GenerateOptions,
    ImportOptions,
    InspectOptions,
    NewOptions,
    ReportOptions,
)
from bertgpt.config.resolve import resolve
from bertgpt.config.training_options import FinetuneOptions, PretrainOptions
from bertgpt.utils.disk import disk_error
from bertgpt.utils.errors import BertGPTError

COMMANDS: dict[str, type[Options]] = {
    "tokenize": TokenizeOptions,
    "shard": ShardOptions,
    "mask": MaskOptions,
    "pretrain": PretrainOptions,
    "finetune": FinetuneOptions,
    "eval": EvalOptions,
    "generate": GenerateOptions,
    "inspect": InspectOptions,
    "export": ExportOptions,
    "import": ImportOptions,
    "report": ReportOptions,
    "new": NewOptions,
}


def stage_module(command: str) -> ModuleType:
    """The module of a command, imported on first use."""
    name = {"eval": "evaluate", "import": "import_"}.get(command, command)  # Python has these names
    return import_module(f"bertgpt.stages.{name}")


def run_stage(command: str, options: Options) -> dict[str, Any]:
    """Run a command. A full or broken disk, wherever it shows, is an error of the user's machine and not a bug."""
    try:
        result: dict[str, Any] = stage_module(command).run(options)
    except Exception as error:
        if isinstance(error, (BertGPTError, BrokenPipeError)) or (report := disk_error(error)) is None:
            raise
        raise report from error
    return result


def as_python_function(command: str, name: str) -> Callable[..., dict[str, Any]]:
    """The Python function of a command: positional arguments first, options as keywords."""
    model = COMMANDS[command]
    names = list(arguments(model))
    is_variadic = any(takes_several(model.model_fields[key]) for key in names)

    def call(*positional: Any, **options: Any) -> dict[str, Any]:
        rest = positional[len(names) - 1 :]
        if is_variadic and rest and all(isinstance(value, str) for value in rest):  # the last argument takes several
            positional = (*positional[: len(names) - 1], list(rest))
        if len(positional) > len(names):
            accepted = f"takes {', '.join(names)} as positional arguments" if names else "takes no positional arguments"
            raise BertGPTError("BG203", f"{name} {accepted}; all others are keyword-only")
        by_position = dict(zip(names, positional, strict=False))
        if both := by_position.keys() & options:
            raise BertGPTError("BG203", f"{', '.join(both)} is given both as positional and as keyword argument")
        return run_stage(command, resolve(model, by_position | options).options)

    parameters = [
        Parameter(
            key,
            Parameter.POSITIONAL_OR_KEYWORD if key in names else Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.is_required() else field.default,
            annotation=field.annotation,
        )
        for key, field in model.model_fields.items()
    ]
    call.__name__ = call.__qualname__ = name
    call.__doc__ = model.__doc__
    call.__signature__ = Signature(parameters, return_annotation=dict[str, Any])  # type: ignore[attr-defined]
    return call
