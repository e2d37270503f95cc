"""Reads Items into frozen dataclasses, by the types of their fields.

A dataclass is one mapping of the file: its fields are the keys, a field without a default must be
given, and what `__post_init__` refuses is an error of that mapping. A field whose name ends in `_`
is the key without it (a word of Python).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from flaxen.router_config.items import Item, plain
from flaxen.router_config.problems import Path, Problems, error_at

_TRUE, _FALSE = ("true", "True", "TRUE", "yes", "on"), ("false", "False", "FALSE", "no", "off")
_MOST_NAMES = 12  # more are no help in an error
T = TypeVar("T")


class Reader:
    """Reads the mappings of one file.

    Args:
      refused: why keys of the reference are not supported, by the dataclass and the key.
      special: readers of dataclasses that are not read by their fields.
    """

    def __init__(
        self,
        refused: Mapping[type, Mapping[str, str]],
        special: Mapping[type, Callable[[Reader, Item, Path], Any]],
    ) -> None:
        self._refused = refused
        self._special = special

    def read(self, wanted: type[T], item: Item, path: Path = ()) -> T:
        """Reads a mapping into a dataclass.

        Raises:
          ConfigError: with all that is wrong in it.
        """
        if wanted in self._special:
            return typing.cast(T, self._special[wanted](self, item, path))
        values = mapping_of(item, path)
        keys = _keys(typing.cast(Hashable, wanted))
        problems, read = Problems(), {}
        for key, below in values.items():
            if problem := self._problem(wanted, key, list(keys)):
                problems.add(below.line, (*path, key), problem)
                continue
            field, hint = keys[key]
            if below.value is None:
                continue  # the same as a key that is not there
            with problems.collecting():
                read[field.name] = self.value(hint, below, (*path, key))
        for key, (field, _) in keys.items():
            if key not in values and _is_required(field):
                problems.add(item.line, path, f"{key} is missing: give it")
        problems.raise_any()
        missing = [k for k, (f, _) in keys.items() if f.name not in read and _is_required(f)]
        if missing:
            raise error_at(values[missing[0]].line, (*path, missing[0]), "a value is missing")
        try:
            return wanted(**read)
        except ValueError as error:
            raise error_at(item.line, path, str(error)) from None

    def value(self, hint: Any, item: Item, path: Path) -> Any:
        """Reads a value of a type: a text, a number, true or false, a dataclass, or a tuple, a
        mapping or a choice of these.

        Raises:
          ConfigError: it is none.
        """
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (types.UnionType, typing.Union):
            return self._one_of([a for a in arguments if a is not types.NoneType], item, path)
        if origin is tuple:
            return self.list_of(arguments[0], item, path)
        if origin is typing.Literal:
            return _choice(arguments, item, path)
        if origin is not None and issubclass(origin, Mapping):
            return self._mapping(arguments[1], item, path)
        if hint is Any:
            return plain(item)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self.read(hint, item, path)
        return _SCALARS[hint](item, path)

    def _one_of(self, hints: list[Any], item: Item, path: Path) -> Any:
        """The first of several types that fits: the more special ones come first."""
        for hint in hints[:-1]:
            problems = Problems()
            with problems.collecting():
                return self.value(hint, item, path)
        return self.value(hints[-1], item, path)

    def list_of(self, hint: Any, item: Item, path: Path) -> tuple[Any, ...]:
        """Reads a list of values of one type.

        Raises:
          ConfigError: with all that is wrong in it.
        """
        if not isinstance(item.value, list):
            raise error_at(item.line, path, f"must be a list, got {item.kind}")
        problems, read = Problems(), []
        for index, below in enumerate(item.value):
            with problems.collecting():
                read.append(self.value(hint, below, (*path, index)))
        problems.raise_any()
        return tuple(read)

    def _mapping(self, hint: Any, item: Item, path: Path) -> dict[str, Any]:
        problems, read = Problems(), {}
        for key, below in mapping_of(item, path).items():
            with problems.collecting():
                read[key] = self.value(hint, below, (*path, key))
        problems.raise_any()
        return read

    def _problem(self, wanted: type, key: str, keys: list[str]) -> str:
        """Why a key can't be in a mapping; "" if it can."""
        reasons = self._refused.get(wanted, {})
        if key in reasons:
            return f"not supported: {reasons[key]}"
        if key in keys:
            return ""
        if "*" in reasons:
            return f"not supported: {reasons['*']}"
        return f"unknown key: {suggestion(key, keys)}"


def mapping_of(item: Item, path: Path) -> dict[str, Item]:
    """The keys and values of a mapping.

    Raises:
      ConfigError: it is none.
    """
    if not isinstance(item.value, dict):
        raise error_at(item.line, path, f"must be a mapping of keys, got {item.kind}")
    return item.value


def suggestion(name: str, known: list[str]) -> str:
    """What to write instead of a name that is unknown."""
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"did you mean {near[0]}?"
    if len(known) > _MOST_NAMES or not known:
        return "remove it"
    return f"give one of {', '.join(sorted(known))}, or remove it"


@lru_cache(maxsize=512)
def _keys(wanted: Any) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """The keys of a dataclass: their fields and types."""
    hints = typing.get_type_hints(wanted)
    return {f.name.rstrip("_"): (f, hints[f.name]) for f in dataclasses.fields(wanted)}


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _text(item: Item, path: Path) -> str:
    if not isinstance(item.value, str):
        raise error_at(item.line, path, f"must be a text, got {item.kind}")
    return item.value


def _flag(item: Item, path: Path) -> bool:
    if item.is_quoted or not isinstance(item.value, str) or item.value not in (*_TRUE, *_FALSE):
        raise error_at(item.line, path, f"must be true or false, got {_shown(item)}")
    return item.value in _TRUE


def _whole(item: Item, path: Path) -> int:
    found = plain(item)
    if isinstance(found, bool) or not isinstance(found, int):
        raise error_at(item.line, path, f"must be a whole number, got {_shown(item)}")
    return found


def _number(item: Item, path: Path) -> float:
    found = plain(item)
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    if not is_number or not math.isfinite(typing.cast(float, found)):
        raise error_at(item.line, path, f"must be a number, got {_shown(item)}")
    return float(typing.cast(float, found))


def _choice(choices: tuple[str, ...], item: Item, path: Path) -> str:
    if item.value not in choices:
        listed = ", ".join(choice or '""' for choice in choices)
        raise error_at(item.line, path, f"must be one of {listed}, got {item.kind}")
    return str(item.value)


def _shown(item: Item) -> str:
    return f"{item.kind} in quotes" if item.is_quoted else item.kind


_SCALARS: Mapping[Any, Callable[[Item, Path], Any]] = {
    str: _text,
    bool: _flag,
    int: _whole,
    float: _number,
}
