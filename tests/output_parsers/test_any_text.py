"""What holds for any text: chunked = whole, nothing is lost, and nothing waits without need."""

from __future__ import annotations

import gc
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxen.output_parsers.events import Content, Reasoning, ToolCall
from flaxen.output_parsers.formats import deepseek, glm45, harmony, kimi_k2
from flaxen.output_parsers.parser import Parser
from flaxen.output_parsers.table import REASONING_FORMATS, TOOL_FORMATS
from tests.output_parsers.parsing import join, parse, reasoning_reader, tool_reader

_NAMES = st.sampled_from(sorted(TOOL_FORMATS))
_FRAGMENTS = (
    *{marker for each in TOOL_FORMATS.values() for marker in each.markers},
    *deepseek.MARKERS, *harmony.MARKERS, *kimi_k2.MARKERS, *glm45.MARKERS,
    "<think>", "</think>", "<function=get_time>", "<parameter=zone>", "</parameter>",
    "</function>", "functools", "[ARGS]", "call:get_time", "get_time", "functions.get_time:0",
    'get_time(zone="CET")', '{"name": "get_time", "arguments": {"zone": "CET"}}', '{"zone": "CET"}',
    "to=functions.get_time", "analysis", "```json", "\n", " ", "{", "}", "[", "]", '"', "\\", "'",
    ",", "<", ">", "|", "Paris", ";",
)  # fmt: skip
_TEXTS = st.lists(st.sampled_from(_FRAGMENTS), max_size=12).map("".join)


@st.composite
def _pieces(draw: st.DrawFn) -> list[str]:
    text = draw(_TEXTS)
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=6).map(sorted))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(name=_NAMES, pieces=_pieces())
def test_pieces_give_what_the_whole_gives(name: str, pieces: list[str]) -> None:
    readers = [tool_reader(name)]
    assert parse(readers, pieces) == parse(readers, ["".join(pieces)])


@given(name=st.sampled_from(sorted(REASONING_FORMATS)), is_open=st.booleans(), pieces=_pieces())
def test_reasoning_and_calls_together_too(name: str, is_open: bool, pieces: list[str]) -> None:
    readers = [tool_reader("hermes")]
    if REASONING_FORMATS[name] is not None:
        readers = [reasoning_reader(name, is_open=is_open), *readers]
    assert parse(readers, pieces) == parse(readers, ["".join(pieces)])


@given(name=_NAMES, pieces=_pieces())
def test_an_answer_without_calls_is_unchanged(name: str, pieces: list[str]) -> None:
    if name == "openai":
        return  # its messages lose their headers
    events = parse([tool_reader(name)], pieces)
    if not any(isinstance(event, ToolCall) for event in events):
        assert "".join(event.text for event in events if isinstance(event, Content)) == "".join(
            pieces
        )


@given(name=_NAMES, text=st.text(max_size=40))
def test_plain_text_is_content_at_once(name: str, text: str) -> None:
    """Only white space at the end waits, because a call would drop it."""
    text = f"It is {text}".replace("<", "").replace("[", "").replace("to=", "")
    if text[-1] in "functools":
        text += "."  # the end may be the beginning of a marker
    events = join(Parser([tool_reader(name)]).push(text))
    assert events == ((Content(text.rstrip()),))


@pytest.mark.parametrize("name", sorted(TOOL_FORMATS))
def test_a_marker_that_is_not_completed_is_given_back(name: str) -> None:
    beginning = TOOL_FORMATS[name].markers[0][:-1]
    parser = Parser([tool_reader(name)])
    given = parser.push(f"So {beginning}")
    assert join(given) == (Content("So"),)
    assert join([*given, *parser.push("~")]) == (Content(f"So {beginning}~"),)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", '<tool_call>{"name": "a", "arguments": {"text": "' + "\\n<b" * 100_000),
        ("qwen3_coder", "<function=a><parameter=b>" + "</param" * 60_000),
        ("glm45", "<tool_call>a<arg_key>b</arg_key><arg_value>" + "</arg_" * 60_000),
        ("pythonic", "[" * 400_000),
        ("mistral", "[TOOL_CALLS]" * 30_000),
        ("deepseek_v31", " " * 400_000),
        ("openai", "<|channel|>a<|message|>" * 16_000),
    ],
)
def test_reading_is_linear_in_the_text(name: str, text: str) -> None:
    """A quarter of the text takes about a quarter of the time; a sixteenth if it were quadratic."""
    seconds = []
    gc.disable()  # it would visit all that other tests made
    try:
        for part in (text[: len(text) // 4], text):
            started = time.process_time()
            parse([tool_reader(name)], (part[i : i + 4] for i in range(0, len(part), 4)))
            seconds.append(time.process_time() - started)
    finally:
        gc.enable()
    assert seconds[1] < 8 * seconds[0] + 0.1


def test_reasoning_ends_without_its_line_breaks() -> None:
    text = "<think>\nThey ask.\n\nI look.\n</think>\n\nIt is sunny.\n"
    expected = (Reasoning("They ask.\n\nI look."), Content("It is sunny.\n"))
    assert parse([reasoning_reader("qwen3")], [text]) == expected
    opened = text.removeprefix("<think>")
    assert parse([reasoning_reader("qwen3", is_open=True)], opened) == expected
    assert parse([reasoning_reader("qwen3", is_open=True)], text) == expected


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [
        ("mistral", "[THINK]", "[/THINK]"),
        ("seed_oss", "<seed:think>", "</seed:think>"),
        ("granite", "Here's my thought process:", "Here is my response:"),
    ],
)
def test_reasoning_of_each_kind(name: str, begin: str, end: str) -> None:
    text = f"{begin}\nThey ask.\n{end}\nIt is sunny."
    expected = (Reasoning("They ask."), Content("It is sunny."))
    assert parse([reasoning_reader(name)], text) == expected


def test_reasoning_that_does_not_end_is_reasoning() -> None:
    assert parse([reasoning_reader("qwen3")], ["<think>\nThey"]) == (Reasoning("They"),)
    assert parse([reasoning_reader("qwen3", is_open=True)], ["They "]) == (Reasoning("They "),)


def test_an_answer_without_reasoning_is_content() -> None:
    assert parse([reasoning_reader("qwen3")], ["\n<thin"]) == (Content("\n<thin"),)
    assert parse([reasoning_reader("qwen3")], ["a <think> b"]) == (Content("a <think> b"),)


def test_calls_are_read_behind_reasoning_and_not_in_it() -> None:
    call = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'
    readers = [reasoning_reader("qwen3"), tool_reader("hermes")]
    expected = (Reasoning(f"Use {call}?"), ToolCall("get_time", "{}"))
    assert parse(readers, f"<think>Use {call}?</think>\n\n{call}") == expected
