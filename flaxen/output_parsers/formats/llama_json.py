"""Calls as JSON without a marker, which Llama 3 writes in place of an answer.

    {"name": "get_weather", "parameters": {"city": "Paris"}}

Several are separated by semicolons. `<|python_tag|>` may come before the first, and then the call
may stand behind text. From the chat templates of Llama 3.1 to 3.3, and vLLM's documentation of
`llama3_json`. Without a marker any answer in JSON looks like a call, so only the names of the
request's tools count. Deliberately does not know schemas.
"""

from __future__ import annotations

from flaxen.output_parsers.incoming import Incoming, Reading
from flaxen.output_parsers.json_text import load, read_calls
from flaxen.output_parsers.tools import Tools

TAG = "<|python_tag|>"
MARKERS = (TAG,)


def read(incoming: Incoming, tools: Tools) -> Reading[None]:
    """Reads an answer that is calls, or content with calls behind the tag."""
    incoming.begin()
    yield from incoming.expect(TAG)
    while True:
        more = True
        while more:
            calls = read_calls(load((yield from incoming.value())))
            if calls is None or not all(name in tools for name, _ in calls):
                incoming.as_content()
                break
            incoming.calls(calls)
            incoming.begin()
            more = (yield from incoming.expect(";", TAG)) is not None
        if (yield from incoming.content_until(TAG)) is None:
            return
