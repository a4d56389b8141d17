"""The commands, in the order of the pipeline.

A command is a module here with `run(options)`, which returns what `--json` calls `result` and so does its Python
function, and `show(result, console)`, which prints it for people.
"""

from collections.abc import Callable
from importlib import import_module
from inspect import Parameter, Signature  # not the module: bertgpt.cli.inspect would take its name
from types import ModuleType
from typing import Any

from bertgpt.config.fields import Options, arguments, takes_several
from bertgpt.config.options import (
    EvalOptions,
    ExportOptions,
    FinetuneOptions,
    GenerateOptions,
    ImportOptions,
    InspectOptions,
    MaskOptions,
    PretrainOptions,
    ReportOptions,
    ShardOptions,
    TokenizeOptions,
)
from bertgpt.config.resolve import resolve
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
}


def module(command: str) -> ModuleType:
    """The module of a command, imported when it is needed and not before."""
    name = {"eval": "evaluate", "import": "import_"}.get(command, command)  # words of Python's own
    return import_module(f"bertgpt.stages.{name}")


def as_python_function(command: str, name: str) -> Callable[..., dict[str, Any]]:
    """A command as a Python function of this name."""
    model = COMMANDS[command]
    places = arguments(model)
    several = any(takes_several(model.model_fields[key]) for key in places)

    def call(*positional: Any, **options: Any) -> dict[str, Any]:
        rest = positional[len(places) - 1 :]
        if several and rest and all(isinstance(value, str) for value in rest):  # the last place takes several
            positional = (*positional[: len(places) - 1], list(rest))
        if len(positional) > len(places):
            raise BertGPTError("BG203", f"{name} takes {', '.join(places) or 'nothing'} by place and all else by name")
        by_place = dict(zip(places, positional, strict=False))
        if both := by_place.keys() & options:
            raise BertGPTError("BG203", f"{', '.join(both)} is given twice, by place and by name")
        given = by_place | options
        result: dict[str, Any] = module(command).run(resolve(model, given).options)
        return result

    parameters = [
        Parameter(
            key,
            Parameter.POSITIONAL_OR_KEYWORD if key in places else Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.is_required() else field.default,
            annotation=field.annotation,
        )
        for key, field in model.model_fields.items()
    ]
    call.__name__ = call.__qualname__ = name
    call.__doc__ = model.__doc__
    call.__signature__ = Signature(parameters, return_annotation=dict[str, Any])  # type: ignore[attr-defined]
    return call
