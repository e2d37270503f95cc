"""Runs a parser over a text that arrives in pieces, and gives events as soon as they are certain.

Deliberately does not know any format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flaxen.output_parsers.events import Content, Event
from flaxen.output_parsers.incoming import Incoming, Reading

Reader = Callable[[Incoming], Reading[None]]


class Parser:
    """The events of one answer. Final. One thread at a time.

    However the text is cut into pieces, the joined contents, the joined reasoning and the calls are
    the same. Text is held back only while it may still become a marker or a call (decision 0322).

    Args:
      readers: what reads the text: the first reads all of it, and each next one reads the content
        that the one before it gave. Without any, all is content.
    """

    def __init__(self, readers: Sequence[Reader] = ()) -> None:
        self._stages = [_Stage(reader) for reader in readers]

    def push(self, text: str) -> list[Event]:
        """Returns the events that are certain with the next piece of the text."""
        return self._run(text, self._stages, ends=False)

    def finish(self) -> list[Event]:
        """Returns what was held back: call it once, behind the last piece."""
        return self._run("", self._stages, ends=True)

    def _run(self, text: str, stages: Sequence[_Stage], *, ends: bool) -> list[Event]:
        if not stages:
            return [Content(text)] if text else []
        events: list[Event] = []
        for event in stages[0].read(text, ends=ends):
            if isinstance(event, Content):
                events += self._run(event.text, stages[1:], ends=False)
            else:
                events.append(event)
        return events + (self._run("", stages[1:], ends=True) if ends else [])


class _Stage:
    """One reader, and the text that it has not read yet."""

    def __init__(self, reader: Reader) -> None:
        self._incoming = Incoming()
        self._steps = reader(self._incoming)
        self._is_done = False

    def read(self, text: str, *, ends: bool) -> list[Event]:
        incoming = self._incoming
        incoming.add(text)
        incoming.ended = ends
        if not self._is_done:
            try:
                next(self._steps)
            except StopIteration:
                self._is_done = True
        if self._is_done or ends:
            incoming.close()
        events, incoming.events = incoming.events, []
        return events
