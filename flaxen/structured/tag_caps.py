"""The bounds of JSON inside of structural tags: the text around it is not bounded.

Deliberately does not know: how tags become a grammar.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import final

from flaxen.structured.caps import Caps, JsonCaps
from flaxen.structured.vocabulary import Bitmask, Vocabulary


@final
class TagCaps:
    """Follows a text, and bounds each value of JSON in it.

    Args:
      vocabulary: the model's tokens.
      caps: the bounds.
      json_begins: the texts after which a value of JSON begins.
    """

    def __init__(self, vocabulary: Vocabulary, caps: Caps, json_begins: Sequence[str]) -> None:
        self._vocabulary, self._caps = vocabulary, caps
        self._begins = tuple(begin.encode() for begin in json_begins)
        self._max_begin = max(map(len, self._begins), default=0)
        self._tail = b""  # of the text outside of JSON
        self._json: JsonCaps | None = None
        if b"" in self._begins:
            self._json = JsonCaps(vocabulary, caps)

    def push(self, data: bytes) -> None:
        """Reads the next bytes of the text."""
        for i in range(len(data)):
            byte = data[i : i + 1]
            if self._json is not None:
                self._json.push(byte)
                # A value that is no array, object or string ends with the byte after it.
                if byte in (b"}", b"]", b'"') and self._json.is_at_top:
                    self._json, self._tail = None, b""
                continue
            self._tail = (self._tail + byte)[-self._max_begin :] if self._max_begin else b""
            if any(begin and self._tail.endswith(begin) for begin in self._begins):
                self._json, self._tail = JsonCaps(self._vocabulary, self._caps), b""

    def copy(self) -> TagCaps:
        """The same at the same place."""
        twin = copy.copy(self)
        twin._json = None if self._json is None else self._json.copy()
        return twin

    def narrow(self, bitmask: Bitmask) -> None:
        """Takes tokens out of those that may come next, where a bound in JSON is reached."""
        if self._json is not None:
            self._json.narrow(bitmask)
