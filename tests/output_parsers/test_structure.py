"""What the structure of calls allows is what the format's parser reads as these calls."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest

from flaxen.output_parsers.events import Content, Reasoning, ToolCall
from flaxen.output_parsers.layouts import Thoughts
from flaxen.output_parsers.parser import Parser
from flaxen.output_parsers.structure import behind_thoughts, required_calls, strict_calls
from flaxen.output_parsers.table import REASONING_FORMATS, TOOL_FORMATS, ToolFormat
from flaxen.protocol import StructuredOutputs
from flaxen.structured import GrammarCompiler
from tests.server.fakes import END, VOCAB_SIZE, byte_tokenizer

TOOLS = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "get_time": {"properties": {"zone": {"enum": ["CET", "UTC"]}}, "required": ["zone"],
                 "additionalProperties": False},
}  # fmt: skip
COMPILER = GrammarCompiler(byte_tokenizer(), VOCAB_SIZE, (END,))
LAYOUTS = sorted(name for name, each in TOOL_FORMATS.items() if each.layout is not None)
# Of these bytes most texts are made, so that random ones end some time.
LIKELY, CLOSING = frozenset(b'"}]{, abc135'), frozenset(b'"}]')


def answer(structure: StructuredOutputs, begins: str, *, seed: int) -> str:
    """A random text that the structure allows, and that begins like this."""
    grammar = COMPILER.compile(structure)()
    rng, given, tokens = random.Random(seed), begins.encode(), list[int]()
    mask = np.zeros(-(-VOCAB_SIZE // 32), np.uint32)
    while True:
        mask[:] = 0
        grammar.fill_bitmask(mask.data)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        allowed = [int(i) for i in np.nonzero(bits)[0]]
        if len(tokens) < len(given):
            wanted = [given[len(tokens)]]
            assert wanted[0] in allowed, given[: len(tokens) + 1]
        elif allowed == [END] or (END in allowed and rng.random() < 0.5):
            return bytes(tokens).decode()
        else:
            others = [i for i in allowed if i != END]
            likely = LIKELY if len(tokens) < 300 else CLOSING
            wanted = [i for i in others if i in likely] or others
        tokens.append(rng.choice(wanted))
        grammar.accept_token(tokens[-1])


def thoughts_of(style: ToolFormat) -> Thoughts:
    qwen3 = REASONING_FORMATS["qwen3"]
    assert qwen3 is not None
    return style.thoughts or qwen3.thoughts


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("reasons", [False, True])
def test_required_calls_are_read_as_calls_with_valid_arguments(name: str, reasons: bool) -> None:
    style = TOOL_FORMATS[name]
    assert style.layout is not None
    thoughts = thoughts_of(style) if reasons else None
    readers = [style.reader(TOOLS)]
    if reasons and style.thoughts is None:
        qwen3 = REASONING_FORMATS["qwen3"]
        assert qwen3 is not None
        readers.insert(0, qwen3.reader(is_open=False))
    begins = "" if thoughts is None else f"{thoughts.begin}Hm.{thoughts.end}"
    counts = set()
    for one_call in (True, False):
        structure = required_calls(
            style.layout, TOOLS, one_call=one_call, thoughts=thoughts, is_open=False
        )
        for seed in range(4):
            parser = Parser(readers)
            events = parser.push(answer(structure, begins, seed=seed)) + parser.finish()
            calls = [event for event in events if isinstance(event, ToolCall)]
            others = [event for event in events if not isinstance(event, ToolCall)]
            assert others == ([Reasoning("Hm.")] if reasons else [])
            for call in calls:
                jsonschema.validate(json.loads(call.arguments), TOOLS[call.name])
            assert len(calls) == 1 if one_call else calls
            counts.add(len(calls))
    assert len(counts) > 1 or style.layout.between is None


@pytest.mark.parametrize("name", LAYOUTS)
def test_calls_of_strict_tools_are_valid_in_any_answer(name: str) -> None:
    style = TOOL_FORMATS[name]
    assert style.layout is not None
    structure = strict_calls(style.layout, TOOLS, {"get_time"}, one_call=False)
    if style.layout.trigger is None:
        assert structure is None  # nothing tells a call from content before it is there
        return
    assert structure is not None
    parser = Parser([style.reader(TOOLS)])
    begins = f"Hm {style.layout.trigger}"
    events = parser.push(answer(structure, begins, seed=1)) + parser.finish()
    assert events[0] == Content("Hm")
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert calls
    for call in calls:
        if call.name == "get_time":
            jsonschema.validate(json.loads(call.arguments), TOOLS["get_time"])


def test_nothing_is_asked_for_where_no_tool_is_strict() -> None:
    layout = TOOL_FORMATS["hermes"].layout
    assert layout is not None
    assert strict_calls(layout, TOOLS, (), one_call=True) is None


def test_reasoning_that_the_prompt_opened_comes_first() -> None:
    style = TOOL_FORMATS["hermes"]
    assert style.layout is not None
    structure = required_calls(
        style.layout, TOOLS, one_call=True, thoughts=thoughts_of(style), is_open=True
    )
    text = answer(structure, "Hm.</think>", seed=0)
    assert "<tool_call>" in text.removeprefix("Hm.</think>")


@pytest.mark.parametrize(
    "content",
    [
        StructuredOutputs(json={"enum": [1, 2]}),
        StructuredOutputs(regex="[12]"),
        StructuredOutputs(choice=["1", "2"]),
    ],
    ids=["json", "regex", "choice"],
)
@pytest.mark.parametrize("is_open", [False, True])
def test_a_structure_of_the_content_comes_behind_reasoning(
    content: StructuredOutputs, is_open: bool
) -> None:
    for style in (TOOL_FORMATS["hermes"], TOOL_FORMATS["openai"]):
        thoughts = thoughts_of(style)
        structure = behind_thoughts(content, thoughts, is_open=is_open)
        assert structure is not None
        begins = f"{'' if is_open else thoughts.begin}Hm.{thoughts.end}"
        text = answer(structure, begins, seed=0).removeprefix(begins)
        assert text.strip("\n").removeprefix(thoughts.content_begin) in ("1", "2")
        if not is_open:
            assert answer(structure, thoughts.content_begin + "1", seed=0)[-1] == "1"


@pytest.mark.parametrize(
    "content",
    [
        StructuredOutputs(grammar='start: "1"'),
        StructuredOutputs(json={}, disable_any_whitespace=True),
    ],
    ids=["grammar", "option"],
)
def test_what_a_tag_can_not_say_does_not_come_behind_reasoning(content: StructuredOutputs) -> None:
    assert behind_thoughts(content, thoughts_of(TOOL_FORMATS["hermes"]), is_open=True) is None


@pytest.mark.parametrize(
    ("schema", "is_closed"),
    [
        ({"properties": {"a": {}}}, True),
        ({"properties": {"a": {}}, "required": ["a"]}, True),
        ({"properties": {}}, True),
        ({"properties": {"a": {}}, "required": ["b"]}, False),
        ({"properties": {"a": {}}, "additionalProperties": True}, False),
        ({"properties": {"a": {}}, "allOf": [{"required": ["b"]}]}, False),
        ({}, False),
    ],
    ids=str,
)
def test_arguments_are_those_that_are_listed(schema: dict[str, Any], is_closed: bool) -> None:
    layout = TOOL_FORMATS["hermes"].layout
    assert layout is not None
    for structure in (
        required_calls(layout, {"f": schema}, one_call=True, thoughts=None, is_open=False),
        strict_calls(layout, {"f": schema}, {"f"}, one_call=True),
    ):
        assert structure is not None
        assert ('"additionalProperties": false' in structure.text) == is_closed
