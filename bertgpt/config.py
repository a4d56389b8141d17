"""Options: the one place where each is defined, with its type, default, bounds and help.

The command line, `--config` files and the Python functions all go through `resolve`, which layers
flag > config file > preset > default and remembers where each value came from.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from bertgpt.errors import BertGPTError, did_you_mean, quoted

if TYPE_CHECKING:
    from bertgpt.yaml_files import Section


@dataclass(frozen=True)
class Argument:
    """Marks a field that is given by its place on the command line."""

    metavar: str


@dataclass(frozen=True)
class Flag:
    """An option of every command; it shapes what is shown and is no part of what is done."""

    metavar: str  # empty: it takes no value
    help: str


COMMON = {
    "config": Flag("FILE[:SECTION]", "Read options from a YAML file, or from a section of it such as pretrain.bert."),
    "show_config": Flag("", "Print the value and the source of every option, and do nothing else."),
    "json": Flag("", "Print one JSON object instead of text."),
    "quiet": Flag("", "Print no notes and no progress."),
}


class Options(BaseModel):
    """The options of a command. The docstring of a subclass is the help text of its command."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    examples: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # used where a field `preset` names one

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: Any) -> Any:
        if isinstance(value, bool) and base_type(cls.model_fields[info.field_name]) in (int, float):
            raise ValueError("should be a number")
        return value


class InspectOptions(Options):
    """Look into the built-in corpus, tinyworld.

    Prints documents with their exact surprise, or examples of the tasks that are set in the world. All of it is a
    function of the seed and the number of the document.
    """

    examples = (
        "bertgpt inspect tinyworld",
        "bertgpt inspect tinyworld --docs 1 --start 41 --seed 7",
        "bertgpt inspect tinyworld --task cloze --docs 2 --json",
    )

    path: Annotated[str, Argument("PATH")] = Field(description="What to look into: tinyworld, the built-in corpus.")
    docs: int = Field(3, ge=0, le=1000, description="How many documents or examples to show, at most 1000.")
    start: int = Field(0, ge=0, le=10**9, description="The number of the first one.")
    seed: int = Field(0, ge=0, lt=2**63, description="Which tinyworld: every seed is another one.")
    task: Literal["topic", "sentiment", "acceptability", "pairs", "endings", "cloze"] | None = Field(
        None, description="Show examples of a task instead of documents."
    )
    split: Literal["train", "dev"] = Field("dev", description="Which examples of a task.")


def cache_folder() -> Path:
    """Where bertgpt keeps what it can make again; $XDG_CACHE_HOME is honoured, and no home is needed."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        base = Path(tempfile.gettempdir())
    return base / "bertgpt"


def base_type(field: FieldInfo) -> Any:
    """The type of a field without its None."""
    members = [member for member in get_args(field.annotation) if member is not type(None)]
    if get_origin(field.annotation) in (Literal, list) or not members:
        return field.annotation
    return members[0] if len(members) == 1 else field.annotation


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The words that a field accepts, if it accepts only certain words."""
    kind = base_type(field)
    return get_args(kind) if get_origin(kind) is Literal else ()


@cache
def arguments(model: type[Options]) -> dict[str, Argument]:
    """The fields that are given by their place, in order."""
    return {
        name: marker
        for name, field in model.model_fields.items()
        for marker in field.metadata
        if isinstance(marker, Argument)
    }


@dataclass(frozen=True)
class Origin:
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
class Resolved:
    """Options that are complete and valid, with the origin of each value."""

    options: Options
    origins: dict[str, Origin]


def resolve(model: type[Options], given: Mapping[str, Any], config: "Section | None" = None) -> Resolved:
    """Layer flag > config file > preset > default; unknown names and impossible values are errors."""
    flags = {name: value for name, value in given.items() if value is not None}
    layers: list[tuple[Origin, Mapping[str, Any]]] = [(Origin("flag"), flags)]
    if config is not None:
        layers.append((Origin("config", config), config.values))
    for origin, layer in layers:
        for key in layer:
            if key not in model.model_fields:
                raise unknown_key(model, key, origin)
    preset = next((layer["preset"] for _, layer in layers if "preset" in layer), None)
    if preset is not None:
        layers.append((Origin("preset", preset=preset), preset_values(model, preset)))
    values: dict[str, Any] = {}
    origins = dict.fromkeys(model.model_fields, Origin("default"))
    for origin, layer in reversed(layers):
        values |= layer
        origins |= dict.fromkeys(layer, origin)
    try:
        return Resolved(model.model_validate(values), origins)
    except ValidationError as invalid:
        raise wrong_value(model, invalid, origins) from None


def preset_values(model: type[Options], preset: Any) -> Mapping[str, Any]:
    """What a preset sets."""
    if not isinstance(preset, str) or preset not in model.presets:
        known = ", ".join(model.presets)
        near = did_you_mean(str(preset), model.presets)
        raise BertGPTError("BG209", f"there is no preset {quoted(preset)}", cause=f"the presets are {known}", hint=near)
    return model.presets[preset]


def unknown_key(model: type[Options], key: str, origin: Origin) -> BertGPTError:
    """The error for a key that is no option."""
    return BertGPTError(
        "BG208",
        f"there is no option {quoted(key)}",
        path=origin.place(key),
        cause=f"the options are {', '.join(model.model_fields)}",
        hint=did_you_mean(key, model.model_fields),
    )


def wrong_value(model: type[Options], invalid: ValidationError, origins: Mapping[str, Origin]) -> BertGPTError:
    """The error for the first value that does not fit its field."""
    problem = invalid.errors()[0]
    name = str(problem["loc"][0])
    field = model.model_fields[name]
    if problem["type"] == "missing":
        metavar = arguments(model)[name].metavar if name in arguments(model) else name
        return BertGPTError("BG203", f"{metavar} is missing", hint=field.description)
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").partition(", unable to")[0]
    origin, words = origins[name], choices(field)
    return BertGPTError(
        "BG204",
        f"{name.replace('_', '-')} {message[0].lower()}{message[1:]}, not {quoted(problem['input'])}",
        path=origin.place(name),
        cause=f"the value comes from {origin}" if origin.preset else None,
        hint=did_you_mean(str(problem["input"]), words) if words else None,
    )
