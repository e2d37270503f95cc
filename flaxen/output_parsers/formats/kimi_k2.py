"""Calls in Kimi K2's section, with ids that the model numbers itself.

    <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0
    <|tool_call_argument_begin|>{"city": "Paris"}<|tool_call_end|><|tool_calls_section_end|>

(without the line break). The id is the call's, and its middle is the tool's name. From the model's
guide to tool calls. Deliberately does not know schemas.
"""

from __future__ import annotations

import re

from flaxen.output_parsers.incoming import Incoming, Reading
from flaxen.output_parsers.json_text import dump, load
from flaxen.output_parsers.tools import Tools

SECTION, SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, ARGUMENTS, CALL_END = (
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
)
MARKERS = (SECTION, SECTION_END, CALL, ARGUMENTS, CALL_END)
_ID = re.compile(r"[\w.:\-]*")
_SPACE = re.compile(r"\s*")


def read(incoming: Incoming, tools: Tools) -> Reading[None]:
    """Reads content, and calls in sections."""
    while marker := (yield from incoming.content_until(SECTION, CALL)):
        if marker == SECTION:
            yield from incoming.expect(CALL)
        yield from incoming.run(_SPACE)
        call_id = yield from incoming.run(_ID)
        name = call_id.removeprefix("functions.").split(":")[0]
        value = None
        if name and (yield from incoming.expect(ARGUMENTS)):
            value = load((yield from incoming.value()))
        if not isinstance(value, dict):
            incoming.as_content()
            continue
        incoming.calls([(name, dump(value))], call_id)
        yield from incoming.expect(CALL_END)
        yield from incoming.expect(SECTION_END)
