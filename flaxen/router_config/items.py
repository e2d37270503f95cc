"""Items: what a file of YAML holds, with the line of each value.

A scalar keeps its text: what it means depends on what is wanted there, as in the reference, whose
reader is typed. So `name: no` is the language Norwegian, and `min_tokens: 8001` a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from flaxen.router_config.problems import Path, Problems, error_at

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the fast one, where it was built
_MERGE, _NULL = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:null"
_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<operator>:?-)(?P<default>[^}]*))?\}"
    r"|(?P<bare>[A-Za-z_][A-Za-z0-9_]*))"
)


@dataclass
class Item:
    """A value of the file: a mapping, a list, a text, or nothing (null).

    Attributes:
      line: from 1.
      value: Items below keys or indices, or the text of a scalar.
      is_quoted: whether a text stood in quotes, or in a block, so that it is no number.
    """

    line: int
    value: dict[str, Item] | list[Item] | str | None
    is_quoted: bool = False

    @property
    def kind(self) -> str:
        """What it is, for errors."""
        if isinstance(self.value, dict):
            return "a mapping"
        if isinstance(self.value, list):
            return "a list"
        return "nothing" if self.value is None else f"the text {self.value[:60]!r}"


def parse_items(text: str) -> Item:
    """The content of a file.

    Raises:
      ConfigError: it is no YAML, a key stands twice or is no text, or a value contains itself.
    """
    try:
        node = yaml.compose(text, _LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 0
        raise error_at(line, (), f"this is no YAML: {getattr(error, 'problem', error)}") from None
    if node is None:
        return Item(1, {})
    return _Converter().convert(node, ())


class _Converter:
    """Makes Items of YAML's nodes. A node that aliases name is converted once."""

    def __init__(self) -> None:
        self._done: dict[int, Item] = {}
        self._open: set[int] = set()

    def convert(self, node: yaml.Node, path: Path) -> Item:
        if id(node) in self._done:
            return self._done[id(node)]
        line = node.start_mark.line + 1
        if id(node) in self._open:
            raise error_at(line, path, "this value contains itself: remove the alias in it")
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            item = Item(line, self._mapping(node, path))
        elif isinstance(node, yaml.SequenceNode):
            children = enumerate(node.value)
            item = Item(line, [self.convert(child, (*path, i)) for i, child in children])
        else:
            value = None if node.tag == _NULL else node.value
            style = getattr(node, "style", None)  # the stubs know none
            item = Item(line, value, is_quoted=bool(style))
        self._open.remove(id(node))
        self._done[id(node)] = item
        return item

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Item]:
        found: dict[str, Item] = {}
        merged: dict[str, Item] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == _MERGE:
                for other in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    below = self.convert(other, path).value
                    if not isinstance(below, dict):
                        raise error_at(line, path, "<< takes a mapping, or a list of mappings")
                    merged = {**below, **merged}
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise error_at(line, path, "a key must be a text")
            if key.value in found:
                raise error_at(
                    line,
                    (*path, key.value),
                    f"the key stands twice, first in line {found[key.value].line}: remove one",
                )
            found[key.value] = self.convert(value, (*path, key.value))
        return {**merged, **found}


def expand(item: Item, environment: Mapping[str, str], problems: Problems, path: Path = ()) -> Item:
    """The same with the environment's values in its texts.

    `${NAME}` and `$NAME` are a variable's value, `${NAME:-text}` has a text for one that is unset
    or empty, `${NAME-text}` for one that is unset, and `$$` is a dollar.

    Args:
      problems: gets variables that are not set and have no text.
    """
    value = item.value
    if isinstance(value, dict):
        below = {k: expand(v, environment, problems, (*path, k)) for k, v in value.items()}
        return Item(item.line, below)
    if isinstance(value, list):
        children = enumerate(value)
        return Item(item.line, [expand(v, environment, problems, (*path, i)) for i, v in children])
    if value is None or "$" not in value:
        return item

    def put(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        name, operator = match["name"] or match["bare"], match["operator"]
        found = environment.get(name)
        if found is None or (not found and operator == ":-"):
            if operator:
                return match["default"]
            if found is None:
                problems.add(
                    item.line,
                    path,
                    f"the variable {name} is not set in the environment: set it, write "
                    f"${{{name}:-text}} for a default, or $$ for a dollar",
                )
        return found or ""

    return Item(item.line, _VARIABLE.sub(put, value), item.is_quoted)


def plain(item: Item) -> object:
    """An item as plain data, where nothing says which type is wanted: numbers and true or false
    where they are written so without quotes."""
    value = item.value
    if isinstance(value, dict):
        return {key: plain(below) for key, below in value.items()}
    if isinstance(value, list):
        return [plain(below) for below in value]
    if value is None or item.is_quoted:
        return value
    if value in ("true", "false"):
        return value == "true"
    for kind in (int, float):
        if re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", value):
            try:
                return kind(value)
            except ValueError:
                continue
    return value
