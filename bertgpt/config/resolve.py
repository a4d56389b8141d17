"""Values of options from all that says something about them: flag > config file > preset > default.

The command line, `--config` files and the Python functions all go through `resolve`, which remembers where each value
came from.
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

    def place(self, key: str) -> str | None:
        """FILE:LINE:COLUMN, for what stands in a file."""
        return self.config.place(key) if self.config else None


@dataclass(frozen=True)
class ResolvedOptions:
    """Options that are complete and valid, with the origin of each value."""

    options: Options
    origins: dict[str, ValueSource]


def resolve(model: type[Options], given: Mapping[str, Any], config: "Section | None" = None) -> ResolvedOptions:
    """Layer flag > config file > preset > default; unknown names and impossible values are errors."""
    flags = {name: value for name, value in given.items() if value is not None}
    layers: list[tuple[ValueSource, Mapping[str, Any]]] = [(ValueSource("flag"), flags)]
    if config is not None:
        layers.append((ValueSource("config", config), config.values))
    for origin, layer in layers:
        for key in layer:
            if key not in model.model_fields:
                raise unknown_key(model, key, origin)
    preset = model.preset_of({key: value for _, layer in reversed(layers) for key, value in layer.items()})
    if preset is not None:
        layers.append((ValueSource("preset", preset=preset[0]), preset[1]))
    values: dict[str, Any] = {}
    origins = dict.fromkeys(model.model_fields, ValueSource("default"))
    for origin, layer in reversed(layers):
        several = [name for name in model.alternatives if name in layer]
        if len(several) > 1:
            raise BertGPTError(
                "BG204", f"{' and '.join(map(flag_name, several))} say the same in two ways", hint="give one"
            )
        values = {name: value for name, value in values.items() if not (several and name in model.alternatives)}
        values |= layer
        origins |= dict.fromkeys(layer, origin)
    try:
        return ResolvedOptions(model.model_validate(values), origins)
    except ValidationError as invalid:
        raise wrong_value(model, invalid, origins) from None


def unknown_key(model: type[Options], key: str, origin: ValueSource) -> BertGPTError:
    """The error for a key that is no option."""
    return BertGPTError(
        "BG208",
        f"there is no option {short_repr(key)}",
        path=origin.place(key),
        cause=f"the options are {', '.join(model.model_fields)}",
        hint=did_you_mean(key, model.model_fields),
    )


def wrong_value(model: type[Options], invalid: ValidationError, origins: Mapping[str, ValueSource]) -> BertGPTError:
    """The error for the first value that does not fit its field."""
    problem = invalid.errors()[0]
    name = str(problem["loc"][0])
    field = model.model_fields[name]
    if problem["type"] == "missing":
        missing = arguments(model)[name].metavar if name in arguments(model) else flag_name(name)
        return BertGPTError("BG203", f"{missing} is missing", hint=f"for example: {model.examples[0]}")
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").partition(", unable to")[0]
    origin, words = origins[name], choices(field)
    return BertGPTError(
        "BG204",
        f"{name.replace('_', '-')} {message[0].lower()}{message[1:]}, not {short_repr(problem['input'])}",
        path=origin.place(name),
        cause=f"the value comes from {origin}" if origin.preset else None,
        hint=did_you_mean(str(problem["input"]), words) if words else None,
    )
