"""ContentCache: results by the content that they are of, the least recently used leave first."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

Value = TypeVar("Value")


class ContentCache(Generic[Value]):
    """Keeps the results of at most `capacity` contents. Not for several threads at once.

    A content's name is a hash of 16 bytes that nobody can make collide on purpose, so that the
    cache keeps no texts.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._values: OrderedDict[bytes, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, name: bytes) -> Value | None:
        """The result of a content, or None if it is not kept (any more)."""
        if name in self._values:
            self._values.move_to_end(name)
        return self._values.get(name)

    def put(self, name: bytes, value: Value) -> None:
        """Keeps a result."""
        self._values[name] = value
        self._values.move_to_end(name)
        while len(self._values) > self.capacity:
            self._values.popitem(last=False)


def name_of(ids: Sequence[int]) -> bytes:
    """The name of a window of token ids."""
    return hashlib.blake2b(np.asarray(ids, np.int64).tobytes(), digest_size=16).digest()
