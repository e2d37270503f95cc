"""Answers as models write them are read as what they mean, however they are cut into pieces."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxen.output_parsers.events import Content, ToolCall
from flaxen.output_parsers.table import TOOL_FORMATS
from tests.output_parsers.parsing import parse, tool_reader
from tests.output_parsers.recorded import RECORDED, Recorded

_EACH = pytest.mark.parametrize(
    "recorded", RECORDED, ids=lambda each: f"{each.parser}-{len(each.text)}"
)


@_EACH
def test_an_answer_is_read_as_what_it_means(recorded: Recorded) -> None:
    readers = [tool_reader(recorded.parser)]
    assert parse(readers, [recorded.text]) == recorded.events
    assert parse(readers, recorded.text) == recorded.events  # character by character


@_EACH
def test_arguments_are_an_object_of_json(recorded: Recorded) -> None:
    for event in recorded.events:
        if isinstance(event, ToolCall):
            assert isinstance(json.loads(event.arguments), dict)


@_EACH
def test_half_a_call_is_text(recorded: Recorded) -> None:
    """At the token limit an answer ends anywhere: its calls are whole ones, and what was written
    of the next is not lost."""
    readers = [tool_reader(recorded.parser)]
    calls = [event for event in recorded.events if isinstance(event, ToolCall)]
    for end in range(len(recorded.text)):
        cut = recorded.text[:end]
        events = parse(readers, [cut])
        assert events == parse(readers, cut)
        whole = [event for event in events if isinstance(event, ToolCall)]
        assert whole == calls[: len(whole)]
        if not whole and recorded.parser != "openai":  # whose messages lose their headers
            assert events == ((Content(cut),) if cut else ())


@given(data=st.data())
def test_any_pieces_give_the_same_events(data: st.DataObject) -> None:
    recorded = data.draw(st.sampled_from(RECORDED))
    end = data.draw(st.integers(0, len(recorded.text)))
    cuts = data.draw(st.lists(st.integers(0, end), max_size=8).map(sorted))
    pieces = [recorded.text[a:b] for a, b in zip([0, *cuts], [*cuts, end], strict=True)]
    readers = [tool_reader(recorded.parser)]
    assert parse(readers, pieces) == parse(readers, [recorded.text[:end]])


def test_each_format_has_a_recorded_answer() -> None:
    read = {TOOL_FORMATS[each.parser].read for each in RECORDED}
    assert read == {each.read for each in TOOL_FORMATS.values()}
