"""`functions` of older clients are tools, whose one call is answered as `function_call`."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.server.clients import openai_client, run
from tests.server.generation.test_tools import CALLS, HELLO, Server, tool

F, G = {"name": "f"}, {"name": "g", "description": "G."}


def test_they_are_described_and_called_as_one_tool() -> None:
    server = Server(CALLS)
    offered = server.prompt(functions=[F, G])
    assert offered == server.prompt(tools=[tool("f"), tool("g", description="G.")])
    choice = server.choice(functions=[F, G])
    assert choice["message"] == {
        "role": "assistant",
        "content": "I look.",
        "refusal": None,
        "function_call": {"name": "f", "arguments": '{"a": "é"}'},
    }
    assert choice["finish_reason"] == "function_call"


def test_a_stream_is_the_whole_message() -> None:
    first, *deltas = Server(CALLS).deltas(functions=[F])
    assert first["delta"] == {"role": "assistant", "content": ""}
    called = [each["delta"]["function_call"] for each in deltas if "function_call" in each["delta"]]
    assert "".join(part.get("name", "") for part in called) == "f"
    assert "".join(part["arguments"] for part in called) == '{"a": "é"}'
    assert deltas[-1]["finish_reason"] == "function_call"


def test_the_official_client_reads_the_call() -> None:
    async def ask() -> Any:
        async with openai_client(Server(CALLS).app) as client:
            return await client.chat.completions.create(
                model="fake/model", messages=HELLO, functions=[F], function_call={"name": "f"}
            )

    assert run(ask()).choices[0].message.function_call.arguments == '{"a": "é"}'


def test_function_call_is_tool_choice() -> None:
    server = Server()
    named = {"type": "function", "function": F}
    asked = server.prompt(functions=[F, G], function_call=F)
    assert asked == server.prompt(tools=[tool("f"), tool("g", description="G.")], tool_choice=named)
    assert server.engine.requests[-1].grammar is not None
    assert server.prompt(functions=[F], function_call="none") == server.prompt()
    both = server.prompt(functions=[F], function_call="none", tools=[tool("g")])
    assert both == server.prompt(tools=[tool("g")])


def test_calls_and_results_of_the_past_are_those_of_tools() -> None:
    called = {"name": "f", "arguments": '{"a": 1}'}
    old = [
        *HELLO,
        {"role": "assistant", "content": None, "function_call": called},
        {"role": "function", "name": "f", "content": "sunny"},
    ]
    call = {"id": "call00001", "type": "function", "function": called}
    new = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "f", "tool_call_id": "call00001", "content": "sunny"},
    ]
    template = "{% for m in messages %}{{ m }}{% endfor %}{# tool_calls #}"
    server = Server(template=template)
    assert server.prompt(messages=old) == server.prompt(messages=new)
    assert "sunny" in server.prompt(messages=[*HELLO, old[-1]])


@pytest.mark.parametrize(
    ("body", "param", "reason"),
    [
        ({"functions": [F], "tools": [tool("g")]}, "functions", "stand without tools"),
        ({"functions": [F, F]}, "functions", "different names"),
        (
            {"functions": [F], "function_call": {"name": "g"}},
            "function_call",
            "must be .none.",
        ),
        ({"functions": [F], "function_call": "required"}, "function_call", "'none', 'auto' or"),
        ({"function_call": {"name": "g"}}, "function_call", "there are none"),
        ({"function_call": 3}, "function_call", "got 3"),
    ],
)
def test_what_is_refused(body: dict[str, Any], param: str, reason: str) -> None:
    async def ask() -> None:
        async with openai_client(Server().app) as client:
            await client.chat.completions.create(model="fake/model", messages=HELLO, **body)

    with pytest.raises(openai.BadRequestError, match=reason) as caught:
        run(ask())
    assert caught.value.param == param
