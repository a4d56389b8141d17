"""YAML as configuration: one mapping, each key once, numbers as people write them, and the place of every key.

Plain YAML 1.1 reads `1e-4` as text, `010` as 8, `1:30` as 90 and `no` as false, and lets the last of two equal keys
win; such things have cost people a night of training. Here a plain word is a number if it is written in decimal, a
truth value if it is true or false, nothing if it is null or empty, and otherwise text. Tags are refused.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr

MAX_BYTES, MAX_NODES, MAX_DEPTH = 1_000_000, 100_000, 50  # a file of options is small; aliases could make it huge
INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,30})$")
NUMBER = re.compile(
    r"[-+]?(?:(?:[0-9][0-9_]*)(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]{1,4})?$|[-+]?\.inf$|\.nan$"
)


class Loader(yaml.SafeLoader):
    """A loader that takes every plain word for text, so that what it means is decided here."""


Loader.yaml_implicit_resolvers = {}


@dataclass(frozen=True)
class Section:
    """The values of one mapping, and where each key stands."""

    name: str  # FILE or FILE:SECTION, as given
    file: str
    values: dict[str, Any]
    marks: dict[str, tuple[int, int]]

    def location(self, key: str) -> str:
        """FILE:LINE:COLUMN of a key."""
        line, column = self.marks[key]
        return f"{self.file}:{line}:{column}"


def read_section(reference: str) -> Section:
    """Read FILE, or the part of it that FILE:dotted.section names. Keys are given with `_` for `-`."""
    file, section = split_reference(reference)
    text = read_text(file)
    try:
        check_depth(file, text)
        node = yaml.compose(text, Loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two for escapes of no character
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        cause = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise BertGPTError("BG206", "this is not YAML", path=place, cause=cause) from None
    if node is None:
        raise BertGPTError("BG206", "the config file is empty", path=file)
    expanded_size(file, node, {})
    mapping = descend(file, node, section)
    values = {underscored(key): value_of(value) for key, value in mapping.value}
    marks = {underscored(key): (key.start_mark.line + 1, key.start_mark.column + 1) for key, _ in mapping.value}
    return Section(reference, file, values, marks)


def split_reference(reference: str) -> tuple[str, list[str]]:
    """FILE and the parts of the section; a file whose name holds a colon is found first."""
    if os.path.exists(reference) or ":" not in reference:  # noqa: PTH110 - a Path of an impossible name raises
        return reference, []
    file, _, section = reference.rpartition(":")
    return file, section.split(".")


def read_text(file: str) -> str:
    """The text of a config file."""
    try:
        with open(file, "rb") as opened:  # noqa: PTH123 - likewise
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise BertGPTError("BG205", "a config file of over 1 MB is taken for a mistake", path=file)
        return content.decode("utf-8-sig")
    except OSError as error:
        raise BertGPTError("BG205", "the config file cannot be read", path=file, cause=error.strerror) from None
    except UnicodeDecodeError as error:
        raise BertGPTError("BG205", "the config file is not UTF-8", path=file, cause=str(error)) from None
    except ValueError as error:  # a NUL in the name
        raise BertGPTError("BG205", "the config file cannot be read", path=file, cause=str(error)) from None


def check_depth(file: str, text: str) -> None:
    """Refuse what is nested so deep that composing it would exhaust the stack."""
    depth = 0
    for event in yaml.parse(text, Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise BertGPTError("BG206", "this is nested too deep for options", path=place_of(file, event))


def expanded_size(file: str, node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values a node holds once its aliases are written out; too many, or a circle, is an error.

    Every node is seen here, so this is also where tags and keys that stand twice are refused.
    """
    if id(node) not in sizes:
        sizes[id(node)] = MAX_NODES  # for a circle: met again before it is counted
        if node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise BertGPTError("BG206", f"the tag {short_repr(node.tag)} is not taken here", path=place_of(file, node))
        if isinstance(node, yaml.MappingNode):
            check_keys(file, node)
        sizes[id(node)] = 1 + sum(expanded_size(file, child, sizes) for child in children(node))
    if sizes[id(node)] > MAX_NODES:
        raise BertGPTError("BG206", "aliases make this file too large", path=place_of(file, node))
    return sizes[id(node)]


def children(node: yaml.Node) -> Iterator[yaml.Node]:
    """The nodes inside a node."""
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def check_keys(file: str, node: yaml.MappingNode) -> None:
    """Keys are words, and each stands once, however it is spelled."""
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise BertGPTError("BG206", "a key is not a plain word", path=place_of(file, key))
        if underscored(key) in seen:
            raise BertGPTError("BG206", f"the key {short_repr(key.value)} stands twice", path=place_of(file, key))
        seen.add(underscored(key))


def underscored(key: yaml.ScalarNode) -> str:
    """A key as options are named."""
    return str(key.value).replace("-", "_")


def descend(file: str, node: Any, section: list[str]) -> yaml.MappingNode:
    """The mapping that the section names."""
    for depth in range(len(section) + 1):
        name = ".".join(section[:depth]) or "the file"
        if not isinstance(node, yaml.MappingNode):
            raise BertGPTError("BG206", f"{name} is not a mapping of options to values", path=place_of(file, node))
        if depth == len(section):
            return node
        keys = {str(key.value): value for key, value in node.value}
        if section[depth] not in keys:
            raise BertGPTError(
                "BG207",
                f"there is no section {short_repr(section[depth])} in {name}",
                path=file,
                cause=f"there are {', '.join(keys)}",
                hint=did_you_mean(section[depth], keys),
            )
        node = keys[section[depth]]
    raise AssertionError


def value_of(node: Any) -> Any:
    """What a node means."""
    if isinstance(node, yaml.SequenceNode):
        return [value_of(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): value_of(value) for key, value in node.value}
    word = str(node.value)
    if node.style is not None:  # in quotes, or a block of text
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


def place_of(file: str, node: Any) -> str:
    """FILE:LINE:COLUMN of a node or event."""
    return f"{file}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
