"""Calls behind `[TOOL_CALLS]`, in the three forms of Mistral's tokenizers.

    [TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]
    [TOOL_CALLS]get_weather{"city": "Paris"}
    [TOOL_CALLS]get_weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "Paris"}

The first is that of tokenizers before version 11, the second of version 11, and the third of those
after it, with or without the id; several calls repeat the marker. From mistral-common's
documentation. Deliberately does not know schemas.
"""

from __future__ import annotations

import re

from flaxen.output_parsers.incoming import Incoming, Reading
from flaxen.output_parsers.json_text import dump, load, read_calls
from flaxen.output_parsers.tools import Tools

BEGIN = "[TOOL_CALLS]"
MARKERS = (BEGIN, "[CALL_ID]", "[ARGS]")
_NAME = re.compile(r"[\w.\-]*")


def read(incoming: Incoming, tools: Tools) -> Reading[None]:
    """Reads content, and calls behind the marker."""
    while (yield from incoming.content_until(BEGIN)):
        name = yield from incoming.run(_NAME)
        call_id = None
        if name and (yield from incoming.expect("[CALL_ID]", "[ARGS]")) == "[CALL_ID]":
            call_id = yield from incoming.run(_NAME)
            yield from incoming.expect("[ARGS]")
        value = load((yield from incoming.value()))
        calls = read_calls(value) if not name else None
        if name and isinstance(value, dict):
            calls = [(name, dump(value))]
        if calls is None:
            incoming.as_content()
        else:
            incoming.calls(calls, call_id)
