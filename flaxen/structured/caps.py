"""Bounds on what a schema leaves open: how long a number, white space, a string or a list may be.

A grammar alone would let a model that repeats itself fill the rest of its tokens with digits or
spaces. Here the text is read byte by byte beside the grammar, and once a run has reached its bound
only tokens that end it stay allowed, if the grammar allows one of them (decision 0320).

Deliberately does not know: grammars, schemas.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:  # it imports llguidance, which servers without structures do without
    from flaxen.structured.vocabulary import Bitmask, Vocabulary

_DIGITS, _SPACES = b"0123456789", b" \t\r\n"
_QUOTE, _BACKSLASH, _COMMA = b'"'[0], b"\\"[0], b","[0]


@dataclass(frozen=True, kw_only=True)
class Caps:
    """The bounds, each far above what an ordinary answer has. A token that begins before a bound
    may go past it.
    """

    digits: int = 40  # in a row, outside of strings
    spaces: int = 128  # white space in a row, outside of strings
    string: int = 16_384  # characters
    items: int = 4_096  # of an array; properties of an object
    depth: int = 64  # arrays and objects within each other


@final
class JsonCaps:
    """Follows one text of JSON, and narrows what may come next where a bound is reached.

    Args:
      vocabulary: the model's tokens.
      caps: the bounds.
    """

    def __init__(self, vocabulary: Vocabulary, caps: Caps) -> None:
        self._vocabulary, self._caps = vocabulary, caps
        self._commas: list[int] = []  # of each array or object that is open
        self._in_string = self._is_escaped = False
        self._num_chars = 0  # of the string
        self._num_digits = self._num_spaces = 0  # in a row

    @property
    def is_at_top(self) -> bool:
        """Whether no string, array or object is open."""
        return not (self._commas or self._in_string)

    def push(self, data: bytes) -> None:
        """Reads the next bytes of the text."""
        for byte in data:
            if self._in_string:
                self._push_in_string(byte)
            else:
                self._push_outside(byte)

    def _push_in_string(self, byte: int) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif byte == _BACKSLASH:
            self._is_escaped = True
        elif byte == _QUOTE:
            self._in_string = False
            return
        if byte & 0xC0 != 0x80:  # not inside a character of several bytes
            self._num_chars += 1

    def _push_outside(self, byte: int) -> None:
        self._num_digits = self._num_digits + 1 if byte in _DIGITS else 0
        self._num_spaces = self._num_spaces + 1 if byte in _SPACES else 0
        if byte == _QUOTE:
            self._in_string, self._num_chars = True, 0
        elif byte in b"[{":
            self._commas.append(0)
        elif byte in b"]}" and self._commas:
            self._commas.pop()
        elif byte == _COMMA and self._commas:
            self._commas[-1] += 1

    def copy(self) -> JsonCaps:
        """The same at the same place."""
        twin = copy.copy(self)
        twin._commas = self._commas.copy()
        return twin

    def narrow(self, bitmask: Bitmask) -> None:
        """Leaves only the tokens that end what has reached its bound, wherever there are any."""
        caps, beginning_with = self._caps, self._vocabulary.beginning_with
        if self._in_string:
            if self._num_chars >= caps.string:
                _keep(bitmask, beginning_with(b'"'))
            return
        if self._num_digits >= caps.digits:
            _keep(bitmask, ~beginning_with(_DIGITS))
        if self._num_spaces >= caps.spaces:
            _keep(bitmask, ~beginning_with(_SPACES))
        if len(self._commas) >= caps.depth:
            _keep(bitmask, ~beginning_with(b"[{"))
        if self._commas and self._commas[-1] >= caps.items - 1:
            _keep(bitmask, beginning_with(b"]}"))


def _keep(bitmask: Bitmask, wanted: Bitmask) -> None:
    narrowed = bitmask & wanted
    if narrowed.any():
        bitmask[:] = narrowed
