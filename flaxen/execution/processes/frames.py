"""Messages between the processes of one engine: a name and arguments, as JSON and raw arrays.

A message is data and nothing else: reading one runs no code. Deliberately does not know sockets.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_LENGTH = struct.Struct("<I")
_ARRAY = "array"  # the key of the object that stands for an array: its dtype and shape


def encode(name: str, arguments: Any) -> bytes:
    """Writes a message.

    Args:
      name: of the call.
      arguments: lists, tuples and dicts of strings, of numbers, None, arrays and NumPy's scalars.
        Tuples become lists, and scalars become arrays without axes.
    """
    arrays: list[np.ndarray] = []
    header = json.dumps([name, _describe(arguments, arrays)]).encode()
    bodies = [np.ascontiguousarray(each).tobytes() for each in arrays]
    return b"".join([_LENGTH.pack(len(header)), header, *bodies])


def _describe(value: Any, arrays: list[np.ndarray]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        assert _ARRAY not in value, f"{_ARRAY!r} is no key of an argument"
        return {key: _describe(each, arrays) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(each, arrays) for each in value]
    array = np.asarray(value)
    arrays.append(array)
    return {_ARRAY: [array.dtype.name, array.shape]}


def read(receive: Callable[[int], bytes]) -> tuple[str, Any]:
    """Reads a message.

    Args:
      receive: returns the next bytes, as many as are asked for.

    Returns:
      The name and the arguments.
    """
    (length,) = _LENGTH.unpack(receive(_LENGTH.size))
    name, described = json.loads(receive(length))
    return name, _rebuild(described, receive)


def _rebuild(described: Any, receive: Callable[[int], bytes]) -> Any:
    if isinstance(described, list):
        return [_rebuild(each, receive) for each in described]
    if not isinstance(described, dict):
        return described
    if _ARRAY not in described:
        return {key: _rebuild(each, receive) for key, each in described.items()}
    name, shape = described[_ARRAY]
    dtype = np.dtype(name)
    body = receive(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(body, dtype).reshape(shape)
