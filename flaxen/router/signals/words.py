"""Where words begin and end, in scripts that put spaces between them and in those that don't."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# Han, Hiragana, Katakana and Hangul, with their signs, jamo and half-width forms.
CJK = (
    "\u1100-\u11ff\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3038-\u303b\u3041-\u318f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_THAI_LAO_MYANMAR_KHMER = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WITHOUT_SPACES = re.compile(f"[{CJK}{_THAI_LAO_MYANMAR_KHMER}]")
_UNIT = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")
_WORD = re.compile(r"[^\W_]+")


class Literal:
    """A text that is found as a word, or as several, not inside of one, whatever its case.

    A side of it that is a letter, a digit or `_` must not touch another of these in the text. In
    scripts without spaces between words, and beside them, it may stand anywhere.
    """

    def __init__(self, text: str, *, is_case_sensitive: bool = False) -> None:
        self._text = text if is_case_sensitive else text.lower()
        self._has_left_border = _is_of_word(text[0])
        self._has_right_border = _is_of_word(text[-1])

    def occurrences(self, text: str) -> Iterator[int]:
        """Where it stands in a text, from the left, without overlaps: linear in the text.

        Args:
          text: in lower case, unless this is case sensitive. Several are looked for in one text.
        """
        first = text.find(self._text)
        while first >= 0:
            end = first + len(self._text)
            blocked = (self._has_left_border and first and _is_of_word(text[first - 1])) or (
                self._has_right_border and end < len(text) and _is_of_word(text[end])
            )
            if not blocked:
                yield first
            first = text.find(self._text, first + 1 if blocked else end)

    def is_in(self, text: str) -> bool:
        """Whether it stands anywhere in a text, which is as for occurrences."""
        return next(self.occurrences(text), None) is not None


def _is_of_word(character: str) -> bool:
    # Marks are the vowels of Indic scripts, and accents that stand behind their letter.
    return (
        character == "_" or unicodedata.category(character)[0] in "LNM"
    ) and not _WITHOUT_SPACES.match(character)


def lower_words(text: str) -> list[str]:
    """The runs of letters and digits of a text, in lower case."""
    return _WORD.findall(text.lower())


def num_units(text: str) -> int:
    """How many words a text has, where each character of Chinese, Japanese and Korean is one."""
    return sum(1 for _ in _UNIT.finditer(text))
