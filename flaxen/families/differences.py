"""Compares two configurations, and names the features in which they differ.

Deliberately does not know what the features mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from flaxen.models.config import DecoderConfig
from flaxen.models.rope_config import RopeConfig


def differences(one: DecoderConfig, other: DecoderConfig) -> list[str]:
    """The names of the fields that differ, such as mixer.window; each once.

    Fields that a kind of rope does not use are not compared.
    """
    return list(dict.fromkeys(_differing(_canonical(one), _canonical(other), "")))


def with_floats(value: Any, change: Callable[[float], float]) -> Any:
    """A configuration, or a part of one, with each of its floats changed."""
    if isinstance(value, float):
        return change(value)
    return _with_parts(value, lambda each: with_floats(each, change))


def _canonical(value: Any) -> Any:
    if isinstance(value, RopeConfig):
        return value.canonical()
    return _with_parts(value, _canonical)


def _with_parts(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, tuple):
        return tuple(change(each) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        names = [each.name for each in fields(value)]
        return replace(value, **{name: change(getattr(value, name)) for name in names})
    return value


def _differing(one: Any, other: Any, name: str) -> list[str]:
    if one == other:
        return []
    if isinstance(one, tuple) and isinstance(other, tuple):
        if len(one) != len(other) or name.rpartition(".")[2] != "layers":
            return [name]
        pairs = zip(one, other, strict=True)
        return [each for pair in pairs for each in _differing(*pair, "")]
    if not is_dataclass(one) or type(one) is not type(other):
        return [name]
    prefix = f"{name}." if name else ""
    return [
        found
        for each in fields(one)
        for found in _differing(
            getattr(one, each.name), getattr(other, each.name), prefix + each.name
        )
    ]
