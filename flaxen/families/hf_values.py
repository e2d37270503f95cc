"""Single values of config.json: read and checked, or found again as they were read.

Deliberately does not know any family, nor what a field means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any


def whole(fields: Mapping[str, Any], name: str, *, default: int | None = None) -> int:
    """Reads a whole number above 0; null counts as missing."""
    value = fields.get(name)
    if value is None and default is not None:
        return default
    _check_present(fields, name)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"{name} must be a whole number above 0, got {value!r}")
    return value


def whole_or_none(fields: Mapping[str, Any], name: str) -> int | None:
    """Reads a whole number above 0; null and missing are None."""
    return None if fields.get(name) is None else whole(fields, name)


def natural(fields: Mapping[str, Any], name: str) -> int:
    """Reads a whole number of at least 0.

    Raises:
      ValueError: it is missing or anything else.
    """
    _check_present(fields, name)
    value = fields[name]
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} must be a whole number of at least 0, got {value!r}")
    return value


def _check_present(fields: Mapping[str, Any], name: str) -> None:
    if fields.get(name) is None:
        raise ValueError(
            f"the configuration has no {name}: add it, as the model can't be built without"
        )


def listed_kinds(kinds: Any, count: int, known: Collection[str]) -> tuple[str, ...]:
    """Reads layer_types, the kind of each layer.

    Args:
      kinds: the field.
      count: the layers.
      known: the kinds that there may be.

    Raises:
      ValueError: it has an unknown kind or another length.
    """
    if not isinstance(kinds, list | tuple) or len(kinds) != count:
        raise ValueError(
            f"layer_types must list one kind for each of the {count} layers, got {kinds!r}"
        )
    for kind in kinds:
        if kind not in known:
            raise ValueError(
                f"layer_types has {kind!r}, which is not supported: only {' and '.join(known)} are"
            )
    return tuple(kinds)


def flag(fields: Mapping[str, Any], name: str) -> bool:
    """Reads a boolean; null and missing are False."""
    value = fields.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def require_present(fields: Mapping[str, Any], *names: str) -> None:
    """Refuses a config.json without a field; null counts as present."""
    for name in names:
        if name not in fields:
            raise ValueError(
                f"the configuration has no {name}, whose default is not the same everywhere: add it"
            )


def positive(fields: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """Reads a finite number above 0; null counts as missing."""
    value = fields.get(name, default)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number above 0, got {value!r}")
    return float(value)


def optional(fields: Mapping[str, Any], name: str) -> float | None:
    """Reads a number above 0; null and missing are None."""
    return None if fields.get(name) is None else positive(fields, name)


def argument(function: Callable[[float], float], value: float, guess: float) -> float:
    """The number near a guess at which a function has exactly this value, so that what is written
    is read again as the same; a whole number if there is one.
    """
    near = (round(guess), guess, math.nextafter(guess, 0), math.nextafter(guess, math.inf))
    return next((each for each in near if each and function(each) == value), guess)


def query_scalar(scale: float | None, head_dim: int) -> float:
    """Gemma's query_pre_attn_scalar, whose inverse square root scales the scores."""
    if scale is None:
        return head_dim
    return argument(lambda value: value**-0.5, scale, scale**-2)
