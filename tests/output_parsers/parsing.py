"""Runs parsers over texts in pieces, for the tests of this room."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flaxen.output_parsers.events import Content, Event, Reasoning
from flaxen.output_parsers.parser import Parser, Reader
from flaxen.output_parsers.table import REASONING_FORMATS, TOOL_FORMATS
from tests.output_parsers.recorded import TOOLS


def tool_reader(name: str, tools: Mapping[str, Mapping[str, Any]] = TOOLS) -> Reader:
    """The reader of a format of tool calls."""
    return TOOL_FORMATS[name].reader(tools)


def reasoning_reader(name: str, *, is_open: bool = False) -> Reader:
    """The reader of a format of reasoning."""
    found = REASONING_FORMATS[name]
    assert found is not None, f"{name} is read with the calls"
    return found.reader(is_open=is_open or found.is_always_open)


def parse(readers: Sequence[Reader], pieces: Iterable[str]) -> tuple[Event, ...]:
    """All events of a text that arrives in pieces, with neighbouring texts joined."""
    parser = Parser(readers)
    events = [event for piece in pieces for event in parser.push(piece)]
    return join(events + parser.finish())


def join(events: Iterable[Event]) -> tuple[Event, ...]:
    """Joins neighbouring pieces of content, and of reasoning, in time linear in their length."""
    joined: list[Event] = []
    for kind, group in itertools.groupby(events, type):
        if kind in (Content, Reasoning):
            joined.append(kind("".join(event.text for event in group)))
        else:
            joined += group
    return tuple(joined)
