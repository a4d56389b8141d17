"""Resolve option values in the order flag > config file > preset > default.

The command line, `--config` files and the Python functions all use `resolve`, which records where each value comes
from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bertgpt.config.fields import Options, arguments, choices, flag_name
from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr

if TYPE_CHECKING:
    from bertgpt.config.yaml_files import Section


@dataclass(frozen=True)
class ValueSource:
    """Where a value comes from."""

    kind: str  # "flag", "config", "preset" or "default"
    config: "Section | None" = None
    preset: str = ""

    def __str__(self) -> str:
        return self.config.name if self.config else f"preset {self.preset}" if self.preset else self.kind

    def location(self, key: str) -> str | None:
        """FILE:LINE:COLUMN of a key in a config file; None for other sources."""
        return self.config.location(key) if self.config else None


@dataclass(frozen=True)
class ResolvedOptions:
    """Complete and valid options, with the source of each value."""

    options: Options
    origins: dict[str, ValueSource]


def resolve(model: type[Options], given: Mapping[str, Any], config: "Section | None" = None) -> ResolvedOptions:
    """Combine flags, config file, preset and defaults; unknown names and invalid values are errors."""
    flags = {name: value for name, value in given.items() if value is not None}
    layers: list[tuple[ValueSource, Mapping[str, Any]]] = [(ValueSource("flag"), flags)]
    if config is not None:
        layers.append((ValueSource("config", config), config.values))
    for source, layer in layers:
        for key in layer:
            if key not in model.model_fields:
                raise unknown_key(model, key, source)
    preset = model.preset_of({key: value for _, layer in reversed(layers) for key, value in layer.items()})
    if preset is not None:
        layers.append((ValueSource("preset", preset=preset[0]), preset[1]))
    values: dict[str, Any] = {}
    origins = dict.fromkeys(model.model_fields, ValueSource("default"))
    for source, layer in reversed(layers):
        alternatives = [name for name in model.alternatives if name in layer]
        if len(alternatives) > 1:
            names = " and ".join(map(flag_name, alternatives))
            raise BertGPTError("BG204", f"{names} are mutually exclusive", hint="give one of them")
        values = {name: value for name, value in values.items() if not (alternatives and name in model.alternatives)}
        values |= layer
        origins |= dict.fromkeys(layer, source)
    try:
        return ResolvedOptions(model.model_validate(values), origins)
    except ValidationError as invalid:
        raise invalid_value(model, invalid, origins) from None


def unknown_key(model: type[Options], key: str, source: ValueSource) -> BertGPTError:
    """The error for a key that is not an option."""
    return BertGPTError(
        "BG208",
        f"no such option: {short_repr(key)}",
        path=source.location(key),
        cause=f"the options are {', '.join(model.model_fields)}",
        hint=model.renamed(key.replace("_", "-")) or did_you_mean(key, model.model_fields),
    )


def invalid_value(model: type[Options], invalid: ValidationError, origins: Mapping[str, ValueSource]) -> BertGPTError:
    """The error for the first value that its field rejects."""
    problem = invalid.errors()[0]
    name, value = str(problem["loc"][0]), problem["input"]
    field = model.model_fields[name]
    if problem["type"] == "missing":
        missing = arguments(model)[name] if name in arguments(model) else flag_name(name)
        return BertGPTError("BG203", f"{missing} is missing", hint=f"for example: {model.examples[0]}")
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").partition(", unable to")[0]
    source, words = origins[name], choices(field)
    return BertGPTError(
        "BG204",
        f"{name.replace('_', '-')} {message[0].lower()}{message[1:]}, not {short_repr(value)}",
        path=source.location(name),
        cause=f"the value comes from {source}" if source.preset else None,
        hint=model.renamed(f"{name.replace('_', '-')} {value}") or (did_you_mean(str(value), words) if words else None),
    )
