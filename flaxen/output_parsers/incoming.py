"""A text that arrives in pieces, and the steps by which a parser reads it.

A parser is a generator that yields when it needs more text. Each character is looked at a bounded
number of times, however the text is cut into pieces, so that reading is linear in its length
(decision 0322). Deliberately does not know any format.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Generator, Sequence
from typing import TypeVar

from flaxen.output_parsers.events import Content, Event, Reasoning, ToolCall
from flaxen.output_parsers.json_text import Call
from flaxen.output_parsers.kept_space import KeptSpace

_T = TypeVar("_T")
Reading = Generator[None, None, _T]  # yields when it needs more text

_SPACE = re.compile(r"\s*")
_PUNCTUATION = {
    False: re.compile(r"""["{}\[\]()]"""),  # outside strings, of JSON
    True: re.compile(r"""["'{}\[\]()]"""),  # and of Python
}
_IN_STRING = {'"': re.compile(r'["\\]'), "'": re.compile(r"['\\]")}


class Incoming:
    """The text that has come and is not read yet, and the events of what was read. Final."""

    def __init__(self) -> None:
        self.ended = False  # no more text comes
        self.events: list[Event] = []
        self._text = ""
        self._at = 0  # where the unread text begins
        self._marked: list[str] | None = None  # what was read since `_mark`
        self._content = KeptSpace()
        self._after_call = False

    def add(self, text: str) -> None:
        """Appends a piece of the text."""
        self._text, self._at = self._text[self._at :] + text, 0

    # What a parser does with what it has read.

    def content(self, text: str) -> None:
        """Gives text as content. White space at its end waits, because a call drops it."""
        if text := self._content.push(text):
            self.events.append(Content(text))
            self._after_call = False

    def reasoning(self, text: str) -> None:
        """Gives text as reasoning."""
        if text:
            self.events.append(Reasoning(text))

    def calls(self, calls: Sequence[Call], call_id: str | None = None) -> None:
        """Gives what was read since the last beginning as calls; the white space before it goes."""
        self._marked = None
        self._content.drop()
        self._after_call = True
        self.events += [ToolCall(name, arguments, call_id) for name, arguments in calls]

    def as_content(self) -> None:
        """Gives what was read since the last beginning as content: it was no call after all."""
        assert self._marked is not None, "no call has begun"
        text, self._marked = "".join(self._marked), None
        self.content(text)

    def forget(self) -> None:
        """Gives what was read since the last beginning as nothing: it was markers."""
        self._marked = None

    def close(self) -> None:
        """Gives all that is left as content; white space behind a last call goes."""
        self.content(self._take(len(self._text)))
        space = self._content.drop()
        if space and not self._after_call:
            self.events.append(Content(space))

    # The steps of reading.

    def content_until(self, *markers: str) -> Reading[str | None]:
        """Gives text as content until one of the markers, which begins what may be a call.

        Returns:
          The marker; None at the end of the text.
        """
        while True:
            text, marker = self._find(markers)
            self.content(text)
            if marker is not None:
                self._marked = [marker]
                return marker
            if self.ended:
                return None
            yield

    def reasoning_until(self, *markers: str) -> Reading[str | None]:
        """Gives text as reasoning until one of the markers, without line breaks at its ends."""
        kept, begun = KeptSpace("\n"), False
        while True:
            text, marker = self._find(markers)
            text = text if begun else text.lstrip("\n")
            begun = begun or bool(text)
            self.reasoning(kept.push(text))
            if marker is not None or self.ended:
                return marker
            yield

    def until(self, *markers: str) -> Reading[tuple[str, str | None]]:
        """Reads until one of the markers: (the text before it, the marker or None)."""
        parts: list[str] = []
        while True:
            text, marker = self._find(markers)
            parts.append(text)
            self._note(text + (marker or ""))
            if marker is not None or self.ended:
                return "".join(parts), marker
            yield

    def begin(self) -> None:
        """Begins what may be a call, at the place that was reached."""
        self._marked = []

    def run(self, pattern: re.Pattern[str]) -> Reading[str]:
        """Reads the longest run that a pattern like `[a-z]*` matches."""
        parts: list[str] = []
        while True:
            match = pattern.match(self._text, self._at)
            assert match is not None, "the pattern matches the empty text"
            parts.append(self._take(match.end()))
            if self._at < len(self._text) or self.ended:
                return "".join(parts)
            yield

    def expect(self, *markers: str) -> Reading[str | None]:
        """Reads white space and one of the markers; reads nothing if there is another text."""
        space = yield from self.run(_SPACE)
        most = max(map(len, markers))
        while True:
            rest = self._text[self._at : self._at + most]
            for marker in markers:
                if rest.startswith(marker):
                    self._take(self._at + len(marker))
                    return marker
            if self.ended or not any(marker.startswith(rest) for marker in markers):
                self._give_back(space)
                return None
            yield

    def value(self, *, is_python: bool = False) -> Reading[str | None]:
        """Reads white space, then an object or a list up to its last bracket.

        Args:
          is_python: strings may have single quotes too.

        Returns:
          Its text; None if the text is none or ends inside it.
        """
        yield from self.run(_SPACE)
        while self._at == len(self._text) and not self.ended:
            yield
        if self._text[self._at : self._at + 1] not in ("{", "["):
            return None
        parts: list[str] = []
        depth, quote, is_escaped = 0, "", False
        while True:
            at = self._at
            while at < len(self._text):
                if is_escaped:
                    at, is_escaped = at + 1, False
                    continue
                pattern = _IN_STRING[quote] if quote else _PUNCTUATION[is_python]
                if (match := pattern.search(self._text, at)) is None:
                    break
                at, mark = match.end(), match.group()
                if mark == "\\":
                    is_escaped = True
                elif mark in "\"'":
                    quote = "" if quote else mark
                else:
                    depth += 1 if mark in "{[(" else -1
                    if depth == 0:
                        parts.append(self._take(at))
                        return "".join(parts)
            parts.append(self._take(len(self._text)))
            if self.ended:
                return None
            yield

    def _find(self, markers: Sequence[str]) -> tuple[str, str | None]:
        """The text before the first marker, and the marker; without one, all text that can't become
        part of a marker. The caller notes it, if need be.
        """
        if markers and (found := _any_of(tuple(markers)).search(self._text, self._at)):
            text, self._at = self._text[self._at : found.start()], found.end()
            return text, found.group()
        end = len(self._text)
        if not self.ended and markers:
            end -= self._num_held(markers)
        text, self._at = self._text[self._at : end], end
        return text, None

    def _num_held(self, markers: Sequence[str]) -> int:
        """How many of the last characters may be the beginning of a marker."""
        most = min(max(map(len, markers)) - 1, len(self._text) - self._at)
        for count in range(most, 0, -1):
            tail = self._text[-count:]
            if any(marker.startswith(tail) for marker in markers):
                return count
        return 0

    def _take(self, end: int) -> str:
        text, self._at = self._text[self._at : end], end
        self._note(text)
        return text

    def _note(self, text: str) -> None:
        if self._marked is not None and text:
            self._marked.append(text)

    def _give_back(self, text: str) -> None:
        """Makes the last text that was read unread again."""
        if not text:
            return
        self._text, self._at = text + self._text[self._at :], 0
        num_left = len(text) if self._marked else 0
        while num_left and self._marked:
            num_left -= len(self._marked.pop())  # it was noted in the pieces that it came in


@functools.lru_cache(maxsize=256)
def _any_of(markers: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, markers)))
