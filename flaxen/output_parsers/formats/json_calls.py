"""Calls as JSON behind a marker: one object {"name", "arguments"}, or a list of them.

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

The formats that differ in their markers alone share this file; `table.py` has their markers:

- hermes: `<tool_call>` and `</tool_call>` around each object, as in the chat templates of Hermes 2
  Pro, Qwen2.5, Qwen3, Granite 4 and SmolLM3.
- granite: `<|tool_call|>` (3.0) or `<tool_call>` (3.1 to 3.3) before one list, which ends the
  answer; from the model cards.
- phi4_mini_json: `functools` before one list, as in the technical report of Phi-4-mini, or
  `<|tool_call|>` and `<|/tool_call|>` around it, as in its chat template.

The end marker may be missing: the JSON says where it ends. Deliberately does not know schemas.
"""

from __future__ import annotations

import functools

from flaxen.output_parsers.incoming import Incoming, Reading
from flaxen.output_parsers.json_text import load, read_calls
from flaxen.output_parsers.tools import ToolReader, Tools


def between(*begins: str, end: str | None) -> ToolReader:
    """Makes the reader of a format with these markers; `end` is None where there is none."""
    return functools.partial(_read, begins=begins, end=end)


def _read(
    incoming: Incoming, tools: Tools, *, begins: tuple[str, ...], end: str | None
) -> Reading[None]:
    while (yield from incoming.content_until(*begins)):
        calls = read_calls(load((yield from incoming.value())))
        if calls is None:
            incoming.as_content()
            continue
        incoming.calls(calls)
        if end is not None:
            yield from incoming.expect(end)
