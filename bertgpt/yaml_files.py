"""YAML as configuration: one mapping, each key once, numbers as people write them, and the place of every key.

Plain YAML 1.1 reads `1e-4` as text and lets the last of two equal keys win; both have cost people a night of training.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bertgpt.errors import BertGPTError, did_you_mean, quoted

MAX_BYTES, MAX_NODES = 1_000_000, 100_000  # a file of options is small; aliases could make a small file huge
EXPONENT = re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.[\d_]+)[eE][-+]?\d+")


class Loader(yaml.SafeLoader):
    """SafeLoader that takes 1e-4 for a number."""


Loader.yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()}
Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(EXPONENT.pattern + "$"), list("-+.0123456789"))


@dataclass(frozen=True)
class Section:
    """The values of one mapping, and where each key stands."""

    name: str  # FILE or FILE:SECTION, as given
    file: str
    values: dict[str, Any]
    marks: dict[str, tuple[int, int]]

    def place(self, key: str) -> str:
        """FILE:LINE:COLUMN of a key."""
        line, column = self.marks[key]
        return f"{self.file}:{line}:{column}"


def read_section(reference: str) -> Section:
    """Read FILE, or the part of it that FILE:dotted.section names. Keys are given with `_` for `-`."""
    file, section = split_reference(reference)
    loader = Loader(read_text(file))
    try:
        node = loader.get_single_node()
        if node is not None:
            expanded_size(file, node, {})
        node = descend(file, node, section)
        values = {key.value.replace("-", "_"): loader.construct_object(value, deep=True) for key, value in node.value}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        raise BertGPTError("BG206", "this is not YAML", path=place, cause=getattr(error, "problem", None)) from None
    finally:
        loader.dispose()
    marks = {key.value.replace("-", "_"): (key.start_mark.line + 1, key.start_mark.column + 1) for key, _ in node.value}
    return Section(reference, file, values, marks)


def split_reference(reference: str) -> tuple[str, list[str]]:
    """FILE and the parts of the section; a file whose name holds a colon is found first."""
    if Path(reference).exists() or ":" not in reference:
        return reference, []
    file, _, section = reference.rpartition(":")
    return file, section.split(".")


def read_text(file: str) -> str:
    """The text of a config file."""
    try:
        content = Path(file).read_bytes()
        if len(content) > MAX_BYTES:
            raise BertGPTError("BG205", "a config file of over 1 MB is taken for a mistake", path=file)
        return content.decode("utf-8-sig")
    except OSError as error:
        raise BertGPTError("BG205", "the config file cannot be read", path=file, cause=error.strerror) from None
    except UnicodeDecodeError as error:
        raise BertGPTError("BG205", "the config file is not UTF-8", path=file, cause=str(error)) from None


def descend(file: str, node: yaml.Node | None, section: list[str]) -> yaml.MappingNode:
    """The mapping that the section names; every mapping on the way has each key once."""
    for depth in range(len(section) + 1):
        name = ".".join(section[:depth]) or "the file"
        if node is None:
            raise BertGPTError("BG206", "the config file is empty", path=file)
        if not isinstance(node, yaml.MappingNode):
            raise BertGPTError("BG206", f"{name} is not a mapping of options to values", path=place_of(file, node))
        keys = unique_keys(file, node)
        if depth == len(section):
            return node
        if section[depth] not in keys:
            raise BertGPTError(
                "BG207",
                f"there is no section {quoted(section[depth])} in {name}",
                path=file,
                cause=f"there are {', '.join(keys)}",
                hint=did_you_mean(section[depth], keys),
            )
        node = keys[section[depth]]
    raise AssertionError


def unique_keys(file: str, node: yaml.MappingNode) -> dict[str, yaml.Node]:
    """The entries of a mapping; a key that stands twice is an error."""
    seen: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise BertGPTError("BG206", "a key is not a plain word", path=place_of(file, key))
        if key.value in seen:
            raise BertGPTError("BG206", f"the key {quoted(key.value)} stands twice", path=place_of(file, key))
        seen[key.value] = value
    return seen


def expanded_size(file: str, node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values a node holds once its aliases are written out; too many, or a circle, is an error."""
    if id(node) not in sizes:
        sizes[id(node)] = MAX_NODES  # for a circle: met again before it is counted
        children = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        sizes[id(node)] = 1 + sum(expanded_size(file, child, sizes) for child in children)
    if sizes[id(node)] > MAX_NODES:
        raise BertGPTError("BG206", "aliases make this file too large", path=place_of(file, node))
    return sizes[id(node)]


def place_of(file: str, node: yaml.Node) -> str:
    """FILE:LINE:COLUMN of a node."""
    return f"{file}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
