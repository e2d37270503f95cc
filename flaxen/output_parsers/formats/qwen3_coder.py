"""Calls as tags with plain text in them, of Qwen3-Coder and Qwen3.5.

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Paris
    </parameter>
    </function>
    </tool_call>

A value stands between line breaks, and is no JSON if it is a string. `<tool_call>` may be missing.
From the chat template of Qwen3-Coder. Deliberately does not know how schemas give values.
"""

from __future__ import annotations

import re
from typing import Any

from flaxen.output_parsers.incoming import Incoming, Reading
from flaxen.output_parsers.json_text import Call, dump
from flaxen.output_parsers.schema_values import read_value
from flaxen.output_parsers.tools import Tools

BEGIN, END, FUNCTION = "<tool_call>", "</tool_call>", "<function="
MARKERS = (BEGIN, END)
_NAME = re.compile(r"[^\s<>]*")


def read(incoming: Incoming, tools: Tools) -> Reading[None]:
    """Reads content, and calls in tags."""
    while marker := (yield from incoming.content_until(BEGIN, FUNCTION)):
        if marker == BEGIN:
            marker = yield from incoming.expect(FUNCTION)
        call = (yield from _read_call(incoming, tools)) if marker else None
        if call is None:
            incoming.as_content()
            continue
        incoming.calls([call])
        yield from incoming.expect(END)


def _read_call(incoming: Incoming, tools: Tools) -> Reading[Call | None]:
    name = yield from incoming.run(_NAME)
    if not name or (yield from incoming.expect(">")) is None:
        return None
    schema, arguments = tools.get(name, {}), dict[str, Any]()
    while tag := (yield from incoming.expect("<parameter=", "</function>")):
        if tag == "</function>":
            return name, dump(arguments)
        key = yield from incoming.run(_NAME)
        if not key or (yield from incoming.expect(">")) is None:
            return None
        text, end = yield from incoming.until("</parameter>")
        if end is None:
            return None
        arguments[key] = read_value(text.removeprefix("\n").removesuffix("\n"), key, schema)
    return None
