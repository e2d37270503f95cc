"""Regular expressions in linear time (RE2), and many of them over one text in one pass.

RE2 has no look-around and no back references, and its `\\b`, `\\w`, `\\d` and `\\s` are ASCII, as
in the public reference, which is written in Go: a configuration means the same in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flaxen.router.signals.extra import load_extra

# A pattern may look ahead to the end of the text for each match, which would be quadratic. So a
# count ends at some number, and a match that is counted ends within some bytes.
MAX_COUNT, _REACH = 1_000, 1 << 16
# The bytes of patterns in one filter: RE2 refuses one whose literals fill more memory than 8 MiB.
_FILTER_BYTES = 1 << 15


def ignoring_case(pattern: str, is_case_sensitive: bool) -> str:
    """A pattern that ignores case unless it must not, or says so itself."""
    return pattern if is_case_sensitive or pattern.startswith("(?i)") else f"(?i){pattern}"


def as_bytes(text: str) -> bytes:
    """A text in UTF-8. Half a surrogate pair, which JSON can bring, becomes a question mark."""
    return text.encode("utf-8", "replace")


class Pattern:
    """One regular expression.

    Raises:
      ValueError: it is not one of RE2's syntax, or RE2 is not installed.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._compiled = _compile(source)

    def is_in(self, text: str) -> bool:
        """Whether it matches anywhere in a text."""
        return self._compiled.search(as_bytes(text)) is not None

    def count(self, text: str) -> tuple[int, int]:
        """How often it matches without overlaps, at most MAX_COUNT, and the number of characters
        that were looked at for that."""
        data = as_bytes(text)
        number = start = 0
        while start <= len(data) and number < MAX_COUNT:
            end = min(start + _REACH, len(data))
            match = self._compiled.search(data, start, end)
            if match is not None:
                number += 1
                start = max(match.end(), start + 1)
            elif end < len(data):
                start = end - _REACH // 2
            else:
                return number, len(text)
        return number, len(data[:start].decode("utf-8", "ignore"))


class Patterns:
    """Many regular expressions, searched in one pass over a text.

    The literals that they can't match without are looked for together first; only those patterns
    whose literals are there run.

    Raises:
      ValueError: a pattern is not one of RE2's syntax or is too large, or RE2 is not installed.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self._filters: list[tuple[Any, list[int]]] = []
        chunk: list[int] = []
        size = 0
        for index, source in enumerate(sources):
            num_bytes = len(as_bytes(source))
            if chunk and size + num_bytes > _FILTER_BYTES:
                self._filters.append((_filter([sources[i] for i in chunk]), chunk))
                chunk, size = [], 0
            chunk.append(index)
            size += num_bytes
        if chunk:
            self._filters.append((_filter([sources[i] for i in chunk]), chunk))

    def found(self, text: str) -> set[int]:
        """The indices of the patterns that match anywhere in a text."""
        data = as_bytes(text)
        return {chunk[i] for found, chunk in self._filters for i in found.Match(data) or ()}


def literal(text: str) -> str:
    """The pattern that matches a text itself."""
    escaped: str = _re2().escape(text)
    return escaped


def check_pattern(source: str) -> None:
    """Raises ValueError unless a text is a regular expression of RE2's syntax."""
    _compile(source)


def _re2() -> Any:
    return load_extra("re2", "google-re2", "keywords, events and structures")


def _options(re2: Any) -> Any:
    options = re2.Options()
    options.never_capture = True
    options.log_errors = False
    return options


def _compile(source: str) -> Any:
    re2 = _re2()
    try:
        return re2.compile(source, _options(re2))
    except re2.error as error:
        shown = source.removeprefix("(?i)")
        raise ValueError(
            f"the regular expression {shown!r} can't be used: {_message(error)}. The syntax is "
            "RE2's, which has no look-around and no back references"
        ) from error


def _filter(sources: Sequence[str]) -> Any:
    re2 = _re2()
    options = _options(re2)
    result = re2.Filter()
    for source in sources:
        try:
            result.Add(source, options)
        except re2.error:
            _compile(source)  # says what is wrong with it
            raise
    try:
        result.Compile()
    except re2.error as error:
        raise ValueError(
            f"the {len(sources)} patterns beginning with {sources[0][:40]!r} are too large "
            "together: shorten the longest"
        ) from error
    return result


def _message(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
