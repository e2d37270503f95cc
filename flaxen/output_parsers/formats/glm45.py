"""Calls as a name with pairs of tags, of GLM-4.5 to 4.7.

    <tool_call>get_weather
    <arg_key>city</arg_key>
    <arg_value>Paris</arg_value>
    </tool_call>

A value is no JSON if it is a string. GLM-4.7 writes it without line breaks. From the chat template
of GLM-4.5. Deliberately does not know how schemas give values.
"""

from __future__ import annotations

import re
from typing import Any

from flaxen.output_parsers.incoming import Incoming, Reading
from flaxen.output_parsers.json_text import Call, dump
from flaxen.output_parsers.schema_values import read_value
from flaxen.output_parsers.tools import Tools

BEGIN, END = "<tool_call>", "</tool_call>"
MARKERS = (BEGIN, END, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
_NAME, _SPACE = re.compile(r"[^\s<>{}]*"), re.compile(r"\s*")


def read(incoming: Incoming, tools: Tools) -> Reading[None]:
    """Reads content, and calls in tags."""
    while (yield from incoming.content_until(BEGIN)):
        call = yield from _read_call(incoming, tools)
        if call is None:
            incoming.as_content()
        else:
            incoming.calls([call])


def _read_call(incoming: Incoming, tools: Tools) -> Reading[Call | None]:
    yield from incoming.run(_SPACE)
    name = yield from incoming.run(_NAME)
    if not name:
        return None
    schema, arguments = tools.get(name, {}), dict[str, Any]()
    while tag := (yield from incoming.expect("<arg_key>", END)):
        if tag == END:
            return name, dump(arguments)
        key, end = yield from incoming.until("</arg_key>")
        if end is None or (yield from incoming.expect("<arg_value>")) is None:
            return None
        text, end = yield from incoming.until("</arg_value>")
        if end is None:
            return None
        arguments[key.strip()] = read_value(text, key.strip(), schema)
    return None
