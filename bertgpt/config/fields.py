"""The base class of options, the types that parse counts and durations, and helpers that read what a field declares."""

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo

from bertgpt.config.renamed import RENAMED_OPTIONS
from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr

Panel = Literal[
    "Arguments",
    "Data",
    "Tokenizer",
    "Model",
    "Sampling",
    "Optimization",
    "Schedule",
    "Evaluation",
    "Checkpoints and logging",
    "Run",
]
PANELS: tuple[str, ...] = get_args(Panel)  # the order of the panels on a help page


def option(
    panel: Panel, default: Any, description: str, *, metavar: str = "", note: str = "", **constraints: Any
) -> Any:
    """A field that is set by --its-name: the panel of its help, its default (`...` if required), help and bounds.

    The note stands for the default where None alone says too little: "required, or --init", "default: all".
    """
    extra: dict[str, Any] = {"panel": panel, "metavar": metavar, "note": note}
    return Field(default, description=description, json_schema_extra=extra, **constraints)


def argument(metavar: str, default: Any, description: str, note: str = "") -> Any:
    """A field that is a positional argument of the command."""
    return option("Arguments", default, description, metavar=metavar, note=note)


# Options of commands in different modules.
Device = Literal["auto", "cuda", "mps", "cpu"]
MODEL = (
    "a run directory, its final/, a checkpoint, or a transformers model (a folder, or a name on the Hugging Face Hub)."
)
TEXT_COLUMN = option("Data", "text", "Column that holds the text.", metavar="NAME")
REVISION = option(
    "Data", None, "Commit of the dataset on the Hugging Face Hub.", metavar="REV", note="default: pinned by bertgpt"
)
DEVICE = option("Run", "auto", "Device to compute on; auto takes the first of CUDA, MPS and CPU that is available.")
OVERWRITE = option(
    "Run",
    False,
    "Replace an existing output. Without this, one made with the same options is kept, and one made with other options "
    "is an error.",
)

COMMON_OPTIONS = {  # of every command; they change what is printed, not what is computed
    "config": (
        "Read options from a YAML file, or from one section of it (FILE:SECTION). Options on the command line "
        "override it.",
        "FILE[:SECTION]",
    ),
    "show_config": ("Print the value and the source of every option, then exit.", ""),
    "json": ("Print the result, or the error, as one JSON object.", ""),
    "quiet": ("Suppress notes and progress, but not the result.", ""),
}


class Options(BaseModel):
    """The options of a command. The docstring of a subclass is the help text of its command."""

    # Validators are built when they are first used: a command line needs those of one command only.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    command: ClassVar[str] = ""
    examples: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # values of the other options for each `preset`
    alternatives: ClassVar[tuple[str, ...]] = ()  # options that exclude each other

    @classmethod
    def preset_of(cls, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
        """The name and the values of the preset that these values select."""
        name = values.get("preset")
        return None if name is None else (str(name), preset_values(cls, name))

    @classmethod
    def renamed(cls, old: str) -> str | None:
        """A hint if an option, or an option with this value, has a new name."""
        new = RENAMED_OPTIONS.get(cls.command, {}).get(old)
        return f"--{old} is now --{new}" if new else None

    @field_validator("*", mode="before")
    @classmethod
    def _reject_bool_for_number(cls, value: Any, info: Any) -> Any:
        if isinstance(value, bool) and base_type(cls.model_fields[info.field_name]) in (int, float):
            raise ValueError("should be a number")
        return value


MAX_SEED = 2**63
UNITS = {
    "": 1, "k": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "KB": 10**3, "MB": 10**6, "GB": 10**9,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
}  # fmt: skip


def parse_count(value: Any) -> Any:
    """Parse a count with a unit: 250k, 1.5M, 10B, 64MiB. Anything else is returned unchanged."""
    match = re.fullmatch(r"([0-9][0-9_]*(?:[.][0-9]+)?)([A-Za-z]*)", value) if isinstance(value, str) else None
    if match is None or match[2] not in UNITS:
        return value
    exact = Fraction(match[1].replace("_", "")) * UNITS[match[2]]
    return int(exact) if exact.denominator == 1 else value


Count = Annotated[int, BeforeValidator(parse_count)]


def parse_duration(value: Any) -> Any:
    """Parse a duration in seconds, minutes or hours: 90s, 10m, 1.5h. Anything else is returned unchanged."""
    match = re.fullmatch(r"([0-9]+(?:[.][0-9]+)?)([smh])", value) if isinstance(value, str) else None
    return value if match is None else float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


Duration = Annotated[float, BeforeValidator(parse_duration)]


def as_list(value: Any) -> Any:
    """Put a single string into a list: Python callers may pass one where the command line repeats an option."""
    return [value] if isinstance(value, str) else value


StrList = Annotated[list[str], BeforeValidator(as_list)]


def base_type(field: FieldInfo) -> Any:
    """The type of a field without `| None` and without annotations."""
    kind = field.annotation
    members = [member for member in get_args(kind) if member is not type(None)]
    if get_origin(kind) not in (Literal, list) and len(members) == 1:
        kind = members[0]
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The values that a field accepts, if it accepts a fixed set."""
    kind = base_type(field)
    return get_args(kind) if get_origin(kind) is Literal else ()


def takes_several(field: FieldInfo) -> bool:
    """Whether a field is a list."""
    return get_origin(base_type(field)) is list


def declared(field: FieldInfo, key: str) -> str:
    """The panel, metavar or note that `option` declared; empty if the field was made without it."""
    extra = field.json_schema_extra
    return str(extra.get(key, "")) if isinstance(extra, dict) else ""


def panel_of(field: FieldInfo) -> str:
    """The panel of the help page that shows a field."""
    return declared(field, "panel") or "Run"


def metavar(field: FieldInfo) -> str:
    """The placeholder for a value in the help: the choices, or the kind of value."""
    if text := declared(field, "metavar"):
        return text
    if words := choices(field):
        return f"[{'|'.join(words)}]"
    parsers = [*field.metadata, *(marker for kind in get_args(field.annotation) for marker in metadata_of(kind))]
    for parse, name in ((parse_count, "COUNT"), (parse_duration, "TIME")):
        if any(getattr(parser, "func", None) is parse for parser in parsers):
            return name
    return {int: "INT", float: "FLOAT"}.get(base_type(field), "TEXT")


def metadata_of(kind: Any) -> tuple[Any, ...]:
    """The annotations of a type."""
    return getattr(kind, "__metadata__", ())


def format_default(field: FieldInfo) -> str:
    """The default of a field as one would type it; empty if there is none to show."""
    value = field.default
    if field.is_required() or value is None or value is False or value == []:
        return ""
    if metavar(field) == "COUNT":
        for unit in ("B", "M", "k"):
            if value and value % UNITS[unit] == 0:
                return f"{value // UNITS[unit]}{unit}"
    return "yes" if value is True else str(value)


def default_note(model: type[Options], key: str) -> str:
    """What the help says about the default of a field: "required", "default: 10", or nothing."""
    field = model.model_fields[key]
    if field.is_required():
        return "required"
    if note := declared(field, "note"):
        return note.replace("{kind}", getattr(model, "kind", ""))
    default = format_default(field)
    if any(key in values for values in model.presets.values()):
        default = f"the preset's, else {default}"
    return f"default: {default}" if default else ""


def flag_name(key: str) -> str:
    """The option of a field as it is typed."""
    return "--" + key.replace("_", "-")


def flag_names(key: str, field: FieldInfo) -> list[str]:
    """Every option that sets a field: two for a switch."""
    return [flag_name(key), "--no-" + flag_name(key)[2:]] if base_type(field) is bool else [flag_name(key)]


@cache
def arguments(model: type[Options]) -> dict[str, str]:
    """The fields that are positional arguments with their metavars, in order."""
    return {name: metavar(field) for name, field in model.model_fields.items() if panel_of(field) == "Arguments"}


def preset_values(model: type[Options], preset: Any) -> Mapping[str, Any]:
    """The values that a preset sets."""
    if not isinstance(preset, str) or preset not in model.presets:
        raise BertGPTError(
            "BG209",
            f"no such preset: {short_repr(preset)}",
            cause=f"the presets are {', '.join(model.presets)}",
            hint=did_you_mean(str(preset), model.presets),
        )
    return model.presets[preset]
