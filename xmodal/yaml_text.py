"""Safe reading of YAML of bounded size: recipes, search spaces, overrides.

A few hundred bytes of nested aliases expand to gigabytes, and one megabyte of brackets takes
minutes to parse. No message quotes the text: it may contain a secret.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from xmodal.errors import UserError

_MOST_BYTES = 2**20
_MOST_NODES = 50_000  # values, keys, lists and mappings, those of aliases as often as they stand


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, limited in the number of nodes."""

    nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.nodes += 1
        if self.nodes > _MOST_NODES:
            raise ValueError(_TOO_LARGE)
        return super().compose_node(parent, index)

    def compose_document(self) -> Any:
        node = super().compose_document()
        if _size(node, {}) > _MOST_NODES:
            raise ValueError(_TOO_LARGE)
        return node


def _number(loader: _Loader, node: yaml.ScalarNode) -> int:
    """Return a whole number of at most 64 bits: larger ones mean nothing, and have no end."""
    number = loader.construct_yaml_int(node)
    if number.bit_length() > 64:
        raise ValueError(node)
    return int(number)


_Loader.add_constructor("tag:yaml.org,2002:int", _number)
_TOO_LARGE = f"it has more than {_MOST_NODES:,} values, with those of its aliases"


def parse_yaml(text: str) -> Any:
    """Parse a YAML text; raises `ValueError` with the place of an error."""
    if len(text) > _MOST_BYTES:
        raise ValueError(f"it is longer than {_MOST_BYTES:,} characters")
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(_reason(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # numbers and dates that are none raise all kinds
        known = str(error) == _TOO_LARGE
        raise ValueError(_TOO_LARGE if known else "a number or date in it is none") from None


def read_yaml(path: Path) -> dict[Any, Any]:
    """Read a file that holds a YAML mapping; raises `UserError` for any other."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1).decode("utf-8")
        values = parse_yaml(text)
    except ValueError as error:  # UnicodeDecodeError is one
        raise UserError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no keys; write a YAML mapping, such as data: {{train: URL}}")
    return values


def _size(node: Any, sizes: dict[int, int]) -> int:
    """Return how many nodes a node stands for, its aliases followed."""
    if id(node) in sizes:
        return sizes[id(node)]
    sizes[id(node)] = _MOST_NODES + 1  # one that contains itself never ends
    children = node.value if isinstance(node, yaml.CollectionNode) else []
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in children for part in pair]
    sizes[id(node)] = 1 + sum(_size(child, sizes) for child in children)
    return sizes[id(node)]


def _reason(error: yaml.YAMLError) -> str:
    """Return what is wrong and where, without the text."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return "a character that YAML does not know"
    what = re.sub(r"(['\"]).*\1", "…", str(error.problem), flags=re.S)
    return f"{what} (line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1})"
