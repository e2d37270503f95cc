"""Custom tools of /v1/chat/completions, whose input is a text."""

from __future__ import annotations

import json
from array import array
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage

from tests.server.generation.test_tools import HELLO, Server, tool

INPUT = "*** Begin Patch\n+é\n"
CALL = json.dumps({"name": "patch", "arguments": {"input": INPUT}})
SAYS = f"I patch.<tool_call>{CALL}</tool_call>"
GRAMMAR = 'start: "a" "b"+'


def patch(**more: Any) -> dict[str, Any]:
    return {"type": "custom", "custom": {"name": "patch", **more}}


def grammar(syntax: str, definition: str) -> dict[str, Any]:
    return {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}


def test_a_call_has_a_text() -> None:
    choice = Server(SAYS).choice(tools=[tool(), patch()])
    message = ChatCompletionMessage.model_validate(choice["message"])
    assert (message.content, choice["finish_reason"]) == ("I patch.", "tool_calls")
    [call] = choice["message"]["tool_calls"]
    assert call == {
        "id": call["id"],
        "type": "custom",
        "custom": {"name": "patch", "input": INPUT},
    }


def test_deltas_put_together_are_the_call() -> None:
    deltas = [chunk["delta"] for chunk in Server(SAYS).deltas(tools=[patch()])]
    first, second = (delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta)
    assert (first["type"], first["custom"]) == ("custom", {"name": "patch", "input": ""})
    assert second == {"index": 0, "custom": {"input": INPUT}}


def test_arguments_of_another_form_are_the_text() -> None:
    says = '<tool_call>{"name": "patch", "arguments": {"diff": "+"}}</tool_call>'
    [call] = Server(says).choice(tools=[patch()])["message"]["tool_calls"]
    assert call["custom"]["input"] == '{"diff": "+"}'


def test_the_model_is_told_of_a_function_with_one_argument() -> None:
    server = Server("x", "{{ tools[0].function | tojson }}")
    told = json.loads(server.prompt(tools=[patch(description="Edits.")]))
    assert (told["name"], told["description"]) == ("patch", "Edits.")
    assert told["parameters"]["properties"] == {"input": {"type": "string"}}
    told = json.loads(server.prompt(tools=[patch(format=grammar("lark", GRAMMAR))]))
    assert told["description"] == f"The input follows this grammar:\n{GRAMMAR}"
    assert server.prompt(tools=[patch(format={"type": "text"})]) == server.prompt(tools=[patch()])


@pytest.mark.parametrize("choice", ["required", patch()])
def test_a_forced_call_follows_its_regular_expression(choice: Any) -> None:
    server = Server("x")
    server.choice(tools=[patch(format=grammar("regex", "[0-9]{3}"))], tool_choice=choice)
    make_grammar = server.engine.requests[-1].grammar
    assert make_grammar is not None
    follows, mask = make_grammar(), memoryview(array("I", [0] * 9))
    for byte in b'<tool_call>\n{"name": "patch", "arguments": {"input": "12':
        follows.accept_token(byte)
    follows.fill_bitmask(mask)
    assert [chr(i) for i in range(256) if mask[i // 32] >> i % 32 & 1] == [*"0123456789"]


def test_calls_of_the_history_are_those_that_were_answered() -> None:
    template = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}"
        "{% endfor %}{% endfor %}{{ '' if tools }} "
    )
    server = Server(SAYS, template)
    message = server.choice(tools=[patch()])["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "Done"}
    prompt = server.prompt(messages=[*HELLO, message, result], tools=[patch()])
    assert json.loads(prompt) == {"name": "patch", "arguments": {"input": INPUT}}


@pytest.mark.parametrize("form", [{}, {"type": "lark"}, grammar("bnf", ""), {"type": "grammar"}])
def test_other_formats_are_refused(form: dict[str, Any]) -> None:
    error = Server().error(tools=[patch(format=form)])
    assert error["param"] == "tools[0].custom.format"
    assert "must be {'type': 'text'}" in error["message"]
