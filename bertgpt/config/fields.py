"""What every option is made of: how it is given, how numbers and times are read, and what a field says of itself."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, field_validator
from pydantic.fields import FieldInfo

from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr


@dataclass(frozen=True)
class PositionalArgument:
    """Marks a field that is given by its place on the command line."""

    metavar: str


@dataclass(frozen=True)
class CommonFlag:
    """An option of every command; it shapes what is shown and is no part of what is done."""

    metavar: str  # empty: it takes no value
    help: str


COMMON = {
    "config": CommonFlag(
        "FILE[:SECTION]", "Read options from a YAML file, or from a section of it such as pretrain.bert."
    ),
    "show_config": CommonFlag("", "Print the value and the source of every option, and do nothing else."),
    "json": CommonFlag("", "Print one JSON object instead of text."),
    "quiet": CommonFlag("", "Print no notes and no progress."),
}


class Options(BaseModel):
    """The options of a command. The docstring of a subclass is the help text of its command."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    examples: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # used where a field `preset` names one
    alternatives: ClassVar[tuple[str, ...]] = ()  # fields of which one stands in the place of the others

    @classmethod
    def preset_of(cls, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
        """The preset that other values call for, by its name."""
        name = values.get("preset")
        return None if name is None else (str(name), preset_values(cls, name))

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: Any) -> Any:
        if isinstance(value, bool) and base_type(cls.model_fields[info.field_name]) in (int, float):
            raise ValueError("should be a number")
        return value


UNITS = {
    "": 1, "k": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "KB": 10**3, "MB": 10**6, "GB": 10**9,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
}  # fmt: skip


def parse_count(value: Any) -> Any:
    """A count as people write it: 250k, 1.5M, 10B, 64MiB."""
    match = re.fullmatch(r"([0-9][0-9_]*(?:[.][0-9]+)?)([A-Za-z]*)", value) if isinstance(value, str) else None
    if match is None or match[2] not in UNITS:
        return value
    exact = Fraction(match[1].replace("_", "")) * UNITS[match[2]]
    return int(exact) if exact.denominator == 1 else value


Count = Annotated[int, BeforeValidator(parse_count)]


def parse_duration(value: Any) -> Any:
    """A length of time as people write it: 90s, 10m, 1.5h."""
    match = re.fullmatch(r"([0-9]+(?:[.][0-9]+)?)([smh])", value) if isinstance(value, str) else None
    return value if match is None else float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


Duration = Annotated[float, BeforeValidator(parse_duration)]


def as_list(value: Any) -> Any:
    """Python may give a single text where the command line repeats an option."""
    return [value] if isinstance(value, str) else value


StrList = Annotated[list[str], BeforeValidator(as_list)]


def base_type(field: FieldInfo) -> Any:
    """The type of a field without its None."""
    kind = field.annotation
    members = [member for member in get_args(kind) if member is not type(None)]
    if get_origin(kind) not in (Literal, list) and len(members) == 1:
        kind = members[0]
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def is_parsed_by(reads: Callable[[Any], Any], field: FieldInfo) -> bool:
    """Whether a field takes what `counted` or `seconds` read."""
    inner = [marker for member in get_args(field.annotation) for marker in getattr(member, "__metadata__", ())]
    return any(getattr(marker, "func", None) is reads for marker in (*field.metadata, *inner))


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The words that a field accepts, if it accepts only certain words."""
    kind = base_type(field)
    return get_args(kind) if get_origin(kind) is Literal else ()


def takes_several(field: FieldInfo) -> bool:
    """Whether a field is a list."""
    return get_origin(base_type(field)) is list


def flag_name(key: str) -> str:
    """An option as it is typed."""
    return "--" + key.replace("_", "-")


@cache
def arguments(model: type[Options]) -> dict[str, PositionalArgument]:
    """The fields that are given by their place, in order."""
    return {
        name: marker
        for name, field in model.model_fields.items()
        for marker in field.metadata
        if isinstance(marker, PositionalArgument)
    }


def preset_values(model: type[Options], preset: Any) -> Mapping[str, Any]:
    """What a preset sets."""
    if not isinstance(preset, str) or preset not in model.presets:
        known = ", ".join(model.presets)
        near = did_you_mean(str(preset), model.presets)
        raise BertGPTError(
            "BG209", f"there is no preset {short_repr(preset)}", cause=f"the presets are {known}", hint=near
        )
    return model.presets[preset]
