"""YAML config files: one mapping with unique keys, decimal numbers, and the line and column of every key.

YAML 1.1 reads `1e-4` as a string, `010` as 8, `1:30` as 90 and `no` as false, and lets the last of two equal keys win,
which has ruined long training runs. Here an unquoted value is a number if it is written in decimal, a bool if it is
true or false, None if it is null or empty, and otherwise a string. Tags are rejected.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr

MAX_BYTES, MAX_NODES, MAX_DEPTH = 1_000_000, 100_000, 50  # aliases could expand a small file enormously
INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,30})$")
NUMBER = re.compile(
    r"[-+]?(?:(?:[0-9][0-9_]*)(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]{1,4})?$|[-+]?\.inf$|\.nan$"
)


class PlainLoader(yaml.SafeLoader):
    """A loader that reads every unquoted value as a string; `value_of` converts it."""


PlainLoader.yaml_implicit_resolvers = {}


@dataclass(frozen=True)
class Section:
    """The values of one mapping, with the line and column of each key."""

    name: str  # FILE or FILE:SECTION, as given
    file: str
    values: dict[str, Any]
    marks: dict[str, tuple[int, int]]

    def location(self, key: str) -> str:
        """FILE:LINE:COLUMN of a key."""
        line, column = self.marks[key]
        return f"{self.file}:{line}:{column}"


def read_section(reference: str) -> Section:
    """Read FILE, or one section of it as FILE:dotted.section. In keys, `-` is replaced by `_`."""
    file, section = split_reference(reference)
    text = read_text(file)
    try:
        check_depth(file, text)
        node = yaml.compose(text, PlainLoader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: invalid escapes
        mark = getattr(error, "problem_mark", None)
        location = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        cause = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise BertGPTError("BG206", "not valid YAML", path=location, cause=cause) from None
    if node is None:
        raise BertGPTError("BG206", "config file is empty", path=file)
    expanded_size(file, node, {})
    mapping = descend(file, node, section)
    values = {underscored(key): value_of(value) for key, value in mapping.value}
    marks = {underscored(key): (key.start_mark.line + 1, key.start_mark.column + 1) for key, _ in mapping.value}
    return Section(reference, file, values, marks)


def split_reference(reference: str) -> tuple[str, list[str]]:
    """Split FILE:SECTION into the file and the section's parts; an existing file may have a colon in its name."""
    if os.path.exists(reference) or ":" not in reference:  # noqa: PTH110 - Path raises for invalid names
        return reference, []
    file, _, section = reference.rpartition(":")
    return file, section.split(".")


def read_text(file: str) -> str:
    """The text of a config file."""
    try:
        with open(file, "rb") as opened:  # noqa: PTH123 - Path raises for invalid names
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise BertGPTError("BG205", "config file is larger than 1 MB", path=file)
        return content.decode("utf-8-sig")
    except OSError as error:
        raise BertGPTError("BG205", "config file cannot be read", path=file, cause=error.strerror) from None
    except UnicodeDecodeError as error:
        raise BertGPTError("BG205", "config file is not UTF-8", path=file, cause=str(error)) from None
    except ValueError as error:  # a NUL in the name
        raise BertGPTError("BG205", "config file cannot be read", path=file, cause=str(error)) from None


def check_depth(file: str, text: str) -> None:
    """Reject nesting so deep that composing the file would exhaust the stack."""
    depth = 0
    for event in yaml.parse(text, PlainLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise BertGPTError("BG206", "config file is nested too deeply", path=location_of(file, event))


def expanded_size(file: str, node: yaml.Node, sizes: dict[int, int]) -> int:
    """Number of values in a node after its aliases are expanded; too many, or a cycle, is an error.

    This visits every node, so tags and duplicate keys are rejected here too.
    """
    if id(node) not in sizes:
        sizes[id(node)] = MAX_NODES  # for a cycle: the node is visited again before it is counted
        if node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise BertGPTError("BG206", f"tags are not allowed: {short_repr(node.tag)}", path=location_of(file, node))
        if isinstance(node, yaml.MappingNode):
            check_keys(file, node)
        sizes[id(node)] = 1 + sum(expanded_size(file, child, sizes) for child in children(node))
    if sizes[id(node)] > MAX_NODES:
        raise BertGPTError("BG206", "aliases make the config file too large", path=location_of(file, node))
    return sizes[id(node)]


def children(node: yaml.Node) -> Iterator[yaml.Node]:
    """The nodes inside a node."""
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def check_keys(file: str, node: yaml.MappingNode) -> None:
    """Check that keys are strings and unique, with `-` and `_` taken as equal."""
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise BertGPTError("BG206", "key is not a string", path=location_of(file, key))
        if underscored(key) in seen:
            raise BertGPTError("BG206", f"duplicate key: {short_repr(key.value)}", path=location_of(file, key))
        seen.add(underscored(key))


def underscored(key: yaml.ScalarNode) -> str:
    """A key with `_` for `-`, as fields are named."""
    return str(key.value).replace("-", "_")


def descend(file: str, node: Any, section: list[str]) -> yaml.MappingNode:
    """The mapping of a section."""
    for depth in range(len(section) + 1):
        name = ".".join(section[:depth]) or "the file"
        if not isinstance(node, yaml.MappingNode):
            raise BertGPTError("BG206", f"{name} is not a mapping of options to values", path=location_of(file, node))
        if depth == len(section):
            return node
        keys = {str(key.value): value for key, value in node.value}
        if section[depth] not in keys:
            raise BertGPTError(
                "BG207",
                f"no such section in {name}: {short_repr(section[depth])}",
                path=file,
                cause=f"the sections are {', '.join(keys)}",
                hint=did_you_mean(section[depth], keys),
            )
        node = keys[section[depth]]
    raise AssertionError


def value_of(node: Any) -> Any:
    """The Python value of a node."""
    if isinstance(node, yaml.SequenceNode):
        return [value_of(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): value_of(value) for key, value in node.value}
    word = str(node.value)
    if node.style is not None:  # quoted, or a block scalar
        return word
    if word in ("", "~", "null"):
        return None
    if word in ("true", "false"):
        return word == "true"
    if INTEGER.match(word):
        return int(word)
    if NUMBER.match(word) and not (word.lstrip("+-").startswith("0") and word.lstrip("+-0").isdigit()):
        return float(word.replace(".inf", "inf").replace(".nan", "nan"))
    return word


def location_of(file: str, node: Any) -> str:
    """FILE:LINE:COLUMN of a node or event."""
    return f"{file}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
