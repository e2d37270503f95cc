"""Reads calls that a model wrote as JSON, strictly: whatever is no call gives None.

Deliberately does not know: markers around them, streams.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

Call = tuple[str, str]  # the name of a tool, and the text of an object of JSON: its arguments


def load(text: str | None) -> Any:
    """The value of a text of JSON; None if it is none."""
    if text is None:
        return None
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):  # RecursionError: it is nested too deeply
        return None


def dump(arguments: Mapping[str, Any]) -> str:
    """The text of a call's arguments. Half characters (lone surrogates) stay escaped."""
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(arguments)
    return text


def read_calls(value: Any) -> list[Call] | None:
    """The calls of a value of JSON: one object with a name and arguments, or a list of them.

    The arguments are named `arguments` or `parameters`, and may be the text of an object. A call
    without them has no arguments.
    """
    values = value if isinstance(value, list) else [value]
    calls = [call for each in values if (call := _read_call(each)) is not None]
    return calls if calls and len(calls) == len(values) else None


def _read_call(value: Any) -> Call | None:
    if not isinstance(value, dict):
        return None
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = load(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return name, dump(arguments)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:80]} is too large for a number of JSON")
    return number


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON")
