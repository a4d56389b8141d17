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

    model_config = ConfigDict(extra="forbid", frozen=True)

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
class Resolved:
    """Options that are complete and valid, with the source of each value."""

    options: Options
    sources: dict[str, str]


def resolve(model: type[Options], given: Mapping[str, Any], config: "Section | None" = None) -> Resolved:
    """Layer flag > config file > preset > default; unknown names and impossible values are errors."""
    flags = {name: value for name, value in given.items() if value is not None}
    layers: list[tuple[str, Mapping[str, Any]]] = [("flag", flags)]
    if config is not None:
        layers.append((config.name, config.values))
    for source, layer in layers:
        for key in layer:
            if key not in model.model_fields:
                raise unknown_key(model, key, source, config)
    preset = next((layer["preset"] for _, layer in layers if "preset" in layer), None)
    if preset is not None:
        layers.append((f"preset {preset}", preset_values(model, preset)))
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, layer in reversed(layers):
        values |= layer
        sources |= dict.fromkeys(layer, source)
    try:
        options = model.model_validate(values)
    except ValidationError as invalid:
        raise wrong_value(model, invalid, sources, config) from None
    return Resolved(options, {name: sources.get(name, "default") for name in model.model_fields})


def preset_values(model: type[Options], preset: Any) -> Mapping[str, Any]:
    """What a preset sets."""
    if preset not in model.presets:
        known = ", ".join(model.presets)
        near = did_you_mean(str(preset), model.presets)
        raise BertGPTError("BG209", f"there is no preset {quoted(preset)}", cause=f"the presets are {known}", hint=near)
    return model.presets[preset]


def unknown_key(model: type[Options], key: str, source: str, config: "Section | None") -> BertGPTError:
    """The error for a key that is no option."""
    in_file = config is not None and source == config.name
    return BertGPTError(
        "BG208",
        f"there is no option {quoted(key)}",
        path=config.place(key) if config is not None and in_file else None,
        cause=f"the options are {', '.join(model.model_fields)}",
        hint=did_you_mean(key, model.model_fields),
    )


def wrong_value(
    model: type[Options], invalid: ValidationError, sources: Mapping[str, str], config: "Section | None"
) -> BertGPTError:
    """The error for the first value that does not fit its field."""
    problem = invalid.errors()[0]
    name = str(problem["loc"][0])
    if problem["type"] == "missing":
        return BertGPTError("BG203", f"{name} is missing", hint=model.model_fields[name].description)
    source = sources.get(name, "flag")
    in_file = config is not None and source == config.name
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").partition(", unable to")[0]
    words = choices(model.model_fields[name])
    shown = f"--{name.replace('_', '-')}" if source == "flag" and name not in arguments(model) else name
    return BertGPTError(
        "BG204",
        f"{shown} {message[0].lower()}{message[1:]}, not {quoted(problem['input'])}",
        path=config.place(name) if config is not None and in_file else None,
        cause=None if source == "flag" or in_file else f"the value comes from {source}",
        hint=did_you_mean(str(problem["input"]), words) if words else None,
    )
