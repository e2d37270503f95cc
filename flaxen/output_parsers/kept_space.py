"""Keeps the white space at the end of a text that still grows.

Deliberately does not know what it is kept for.
"""

from __future__ import annotations


class KeptSpace:
    """Gives a text as it grows, without the white space that it ends with so far. Final.

    Args:
      characters: what counts as white space; None is all of Unicode's.
    """

    def __init__(self, characters: str | None = None) -> None:
        self._characters = characters
        self._kept: list[str] = []

    def push(self, text: str) -> str:
        """Appends text, and returns what is not at the end any more."""
        solid = text.rstrip(self._characters)
        if not solid:
            self._kept.append(text)
            return ""
        given = "".join([*self._kept, solid])
        self._kept = [text[len(solid) :]]
        return given

    def drop(self) -> str:
        """Returns what is kept, and forgets it."""
        text = "".join(self._kept)
        self._kept = []
        return text
