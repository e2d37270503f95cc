"""Numbers of config.json, read and found again. Deliberately does not know any family."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from flaxen.families import hf


def optional(fields: Mapping[str, Any], name: str) -> float | None:
    """Reads a number above 0; null and missing are None."""
    return None if fields.get(name) is None else hf.positive(fields, name)


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
