"""The official client calls tools of SmolLM2, whose chat template shows none."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tests.e2e.serving import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Each answer is short, whatever the model takes.
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Berlin", "Paris"]}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}}
    for name in ("get_weather", "get_events")
]
ASKS = [{"role": "user", "content": "How is the weather in Paris on the next 3 days?"}]
NAMED = {"type": "function", "function": {"name": "get_events"}}


def streamed(server: Server, **body: Any) -> Any:
    """The message that the client puts together from a stream."""
    helper = server.openai.chat.completions.stream(
        model=server.model, messages=ASKS, temperature=0, max_tokens=60, **body
    )
    with helper as stream:
        return stream.get_final_completion().choices[0].message


def calls(message: Any) -> list[tuple[str, str]]:
    """The names and arguments of a message's calls."""
    return [(c.function.name, c.function.arguments) for c in message.tool_calls or ()]


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_calls_that_must_be_are_valid(server: Server, choice: Any) -> None:
    # Not parallel: a model that is so small may call until the token limit.
    body = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False}
    [whole] = server.chat(ASKS, max_tokens=60, **body).choices
    [(name, arguments)] = calls(whole.message)
    jsonschema.validate(json.loads(arguments), SCHEMA)
    assert (whole.finish_reason, whole.message.content) == ("tool_calls", None)
    assert name == "get_events" or choice == "required"
    assert calls(streamed(server, **body)) == [(name, arguments)]


def test_an_answer_may_call_and_is_told_of_results(server: Server) -> None:
    function = {"name": "get_weather", "arguments": '{"city": "Paris", "days": 3}'}
    call = {"id": "call_1", "type": "function", "function": function}
    history = [
        *ASKS,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Three sunny days."},
    ]
    body = {"tools": TOOLS, "max_tokens": 12}
    [whole] = server.chat(history, **body).choices
    chunks = [chunk.choices[0].delta for chunk in server.chat(history, stream=True, **body)]
    assert "".join(delta.content or "" for delta in chunks) == whole.message.content
    plain = server.chat(ASKS, max_tokens=1)
    told = server.chat(ASKS, max_tokens=1, tools=TOOLS)
    assert told.usage.prompt_tokens > plain.usage.prompt_tokens + 100
