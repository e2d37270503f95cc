"""Calls in DeepSeek's sections, of V3 and R1 (the first form) and of V3.1 (the second).

    <|tool_calls_begin|><|tool_call_begin|>function<|tool_sep|>get_weather
    ```json
    {"city": "Paris"}
    ```<|tool_call_end|><|tool_calls_end|>

    <|tool_calls_begin|><|tool_call_begin|>get_weather<|tool_sep|>{"city": "Paris"}
    <|tool_call_end|><|tool_calls_end|>

(the second without a line break). The bars are U+FF5C and the low lines between words U+2581. A
section has one call or several. From the models' chat templates. Deliberately does not know
schemas.
"""

from __future__ import annotations

import re

from flaxen.output_parsers.incoming import Incoming, Reading
from flaxen.output_parsers.json_text import Call, dump, load
from flaxen.output_parsers.tools import Tools


def _marker(name: str) -> str:
    return f"<\uff5c{name}\uff5c>".replace("_", "\u2581")


SECTION, SECTION_END = _marker("tool_calls_begin"), _marker("tool_calls_end")
CALL, CALL_END = _marker("tool_call_begin"), _marker("tool_call_end")
SEPARATOR = _marker("tool_sep")
MARKERS = (SECTION, SECTION_END, CALL, SEPARATOR, CALL_END)
_NAME = re.compile(r"[\w.\-]*")


def read(incoming: Incoming, tools: Tools) -> Reading[None]:
    """Reads content, and calls in sections."""
    while marker := (yield from incoming.content_until(SECTION, CALL)):
        if marker == SECTION:
            yield from incoming.expect(CALL)
        call = yield from _read_call(incoming)
        if call is None:
            incoming.as_content()
            continue
        incoming.calls([call])
        yield from incoming.expect(CALL_END)
        yield from incoming.expect(SECTION_END)


def _read_call(incoming: Incoming) -> Reading[Call | None]:
    name = yield from incoming.run(_NAME)
    if (yield from incoming.expect(SEPARATOR)) is None:
        return None
    named_behind = yield from incoming.run(_NAME)
    if named_behind:
        name = named_behind
        yield from incoming.expect("```json")
    value = load((yield from incoming.value()))
    if not name or not isinstance(value, dict):
        return None
    if named_behind:
        yield from incoming.expect("```")
    return name, dump(value)
