"""Calls of FunctionGemma, whose strings stand between `<escape>` markers.

    <start_function_call>call:get_weather{city:<escape>Paris<escape>,days:3}<end_function_call>

Objects and lists have braces and brackets; numbers, true, false and null are JSON's. From the
model's chat template and its guide to function calls. Deliberately does not know schemas.
"""

from __future__ import annotations

import json
import re

from flaxen.output_parsers.incoming import Incoming, Reading
from flaxen.output_parsers.json_text import Call, dump, load
from flaxen.output_parsers.tools import Tools

BEGIN, END = "<start_function_call>", "<end_function_call>"
MARKERS = (BEGIN, END, "<escape>")
_CALL = re.compile(r"\s*call:([\w.\-]+)\s*(\{.*\})\s*", re.DOTALL)
# A string, or a key without its quotes: what is not JSON yet.
_PIECE = re.compile(r"<escape>(.*?)<escape>|([^\W\d][\w.\-]*)(?=\s*:)", re.DOTALL)


def read(incoming: Incoming, tools: Tools) -> Reading[None]:
    """Reads content, and calls between the markers."""
    while (yield from incoming.content_until(BEGIN)):
        text, end = yield from incoming.until(END)
        call = _read_call(text) if end is not None else None
        if call is None:
            incoming.as_content()
        else:
            incoming.calls([call])


def _read_call(text: str) -> Call | None:
    match = _CALL.fullmatch(text)
    if match is None:
        return None
    value = load(_PIECE.sub(lambda piece: json.dumps(piece[1] or piece[2] or ""), match[2]))
    return (match[1], dump(value)) if isinstance(value, dict) else None
