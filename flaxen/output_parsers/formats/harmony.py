"""The messages of an answer in gpt-oss's harmony format: reasoning, content and calls in channels.

    <|channel|>analysis<|message|>They ask for the weather.<|end|>
    <|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>
    {"city": "Paris"}<|call|>

    <|channel|>final<|message|>It is sunny.<|return|>

(without the line breaks). The prompt ends with `<|start|>assistant`. The recipient may also stand
before the channel. Text of the commentary without a recipient is for the user, as is what stands
outside of messages. From OpenAI's guide to the format. Deliberately does not know schemas.
"""

from __future__ import annotations

import re

from flaxen.output_parsers.incoming import Incoming, Reading
from flaxen.output_parsers.json_text import dump, load
from flaxen.output_parsers.tools import Tools

START, CHANNEL, MESSAGE, CALL = "<|start|>", "<|channel|>", "<|message|>", "<|call|>"
_ENDS = ("<|end|>", CALL, "<|return|>")
MARKERS = (START, CHANNEL, MESSAGE, "<|constrain|>", *_ENDS)
_RECIPIENT = re.compile(r"to=functions\.([\w.\-]+)")
_REASONING = re.compile(rf"{re.escape(CHANNEL)}\s*analysis\b")


def read(incoming: Incoming, tools: Tools) -> Reading[None]:
    """Reads messages until the end of the text.

    Args:
      incoming: the text behind `<|start|>assistant`.
      tools: without any, messages to functions are content.
    """
    incoming.begin()
    marker = yield from incoming.expect(CHANNEL, START, "to=")
    while True:
        header, end = (yield from incoming.until(MESSAGE)) if marker else ("", None)
        header = (marker or "") + header
        recipient = _RECIPIENT.search(header)
        if end is None:
            incoming.as_content()
        elif recipient is not None and tools:
            yield from _read_call(incoming, recipient[1])
        elif "to=" not in header and _REASONING.search(header):
            incoming.forget()
            yield from incoming.reasoning_until(*_ENDS)
        elif "to=" in header:
            incoming.as_content()
        else:
            incoming.forget()
            yield from incoming.content_until(*_ENDS)
            incoming.forget()
        marker = yield from incoming.content_until(START, CHANNEL)
        if marker is None:
            return


def _read_call(incoming: Incoming, name: str) -> Reading[None]:
    value = load((yield from incoming.value()))
    if not isinstance(value, dict):
        incoming.as_content()
        return
    incoming.calls([(name, dump(value))])
    yield from incoming.expect(*_ENDS)
