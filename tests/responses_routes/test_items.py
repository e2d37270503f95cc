"""Inputs of all forms: the prompts that they become, and the places of what is wrong in them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.responses_routes.serving import TOOL, Server

SERVER = Server()
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}'}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "sunny"}
REASONING = {"type": "reasoning", "summary": [], "content": [
    {"type": "reasoning_text", "text": "Hm."}]}  # fmt: skip


def message(role: str, *texts: str, kind: str = "input_text") -> dict[str, Any]:
    return {"role": role, "content": [{"type": kind, "text": text} for text in texts]}


@pytest.mark.parametrize(
    ("asked", "prompt"),
    [
        ("Hi", "[user]Hi"),
        ([{"role": "user", "content": "Hi"}], "[user]Hi"),
        ([message("user", "H", "i")], "[user]Hi"),
        ([message("developer", "D"), message("user", "Hi")], "[system]D[user]Hi"),
        ([message("user", "Hi"), message("assistant", "Yo", kind="output_text")],
         "[user]Hi[assistant]Yo"),
        ([{"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]}],
         "[assistant]No"),
        ([REASONING, message("assistant", "Yo"), CALL, CALL, RESULT, RESULT],
         "[assistant](Hm.)Yo<f 1><f 1>[tool]sunny[tool]sunny"),
        ([CALL, message("assistant", "Yo"), REASONING, CALL],
         "[assistant]<f 1>[assistant]Yo[assistant](Hm.)<f 1>"),
        ([RESULT | {"output": [{"type": "input_text", "text": "wet"}]}], "[tool]wet"),
        ([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "S"}]}],
         "[assistant](S)"),
    ],
)  # fmt: skip
def test_items_are_messages(asked: Any, prompt: str) -> None:
    assert SERVER.prompt(input=asked) == prompt


def test_instructions_are_the_first_system_message_and_take_others_in() -> None:
    assert SERVER.prompt(instructions="I.") == "[system]I.[user]Hi"
    asked = [message("developer", "D", "E"), message("user", "Hi"), message("system", "S")]
    assert SERVER.prompt(input=asked, instructions="I.") == (
        "[system]I.\n\nD\n\nE[user]Hi[system]S"
    )


def test_what_was_answered_is_asked_again() -> None:
    output = SERVER.create(tools=[TOOL])["output"]
    asked = [{"role": "user", "content": "Hi"}, *output, RESULT | {"call_id": output[2]["call_id"]}]
    assert SERVER.prompt(input=asked, tools=[TOOL], store=False) == (
        "f [user]Hi[assistant](They ask.)I look é.<f é>[tool]sunny"
    )


@pytest.mark.parametrize(
    ("choice", "shown"),
    [
        (None, "f g "),
        ("auto", "f g "),
        ("none", ""),
        ({"type": "allowed_tools", "mode": "auto",
          "tools": [{"type": "function", "name": "g"}]}, "g "),
    ],
)  # fmt: skip
def test_the_template_gets_the_tools_that_may_be_called(choice: Any, shown: str) -> None:
    tools = [TOOL, TOOL | {"name": "g"}]
    assert SERVER.prompt(tools=tools, tool_choice=choice) == f"{shown}[user]Hi"


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input": 3}, "input", "a string or a list of items"),
        ({"input": []}, "input", "at least one item"),
        ({"input": ["Hi"]}, "input[0]", "must be an item"),
        ({"input": [{"type": "item_reference"}]}, "input[0].id", "is required"),
        ({"input": [{"type": ["message"]}]}, "input[0].type", "this server reads message"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "'user'"),
        ({"input": [{"role": "user"}]}, "input[0].content", "required"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content", "a list of parts"),
        ({"input": [{"role": "user", "content": "x", "name": "n"}]}, "input[0].name", "unknown"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         "input[0].content[0]", "text only, got 'input_image'"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
         "input[0].content[0].text", "must be a string"),
        ({"input": [CALL | {"arguments": "{"}]}, "input[0].arguments", "not valid JSON"),
        ({"input": [CALL | {"call_id": None}]}, "input[0].call_id", "a valid string"),
        ({"input": [RESULT | {"output": 3}]}, "input[0].output", "a list of parts"),
        ({"input": [{"type": "reasoning", "encrypted_content": "x"}]},
         "input[0].encrypted_content", "only the server that encrypted it"),
        ({"input": [{"type": "reasoning", "content": ["x"]}]}, "input[0].content[0]",
         "reasoning_text"),
        ({"input": [{"role": "user", "content": "x"}] * 2049}, "input", "at most 2048"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].type", "'file_search' is refused"),
        ({"tools": [{"type": "namespace", "name": "n"}]}, "tools[0]", "and tools (a list)"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "mcp"}]}]},
         "tools[0].tools[0].type", "'mcp' is refused"),
        ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
         "tool_choice", "must be 'none'"),
        ({"tools": [{"type": "custom", "name": "f", "format": {"type": "grammar"}}]},
         "tools[0].format", "its syntax"),
        ({"tools": ["f"]}, "tools[0].type", "'f' is refused"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "is required"),
        ({"tools": [TOOL | {"parameters": 3}]}, "tools[0].parameters", "dictionary"),
        ({"tools": [TOOL | {"output_schema": {}}]}, "tools[0].output_schema", "unknown field"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice",
         "must name one of tools (f), got 'g'"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice",
         "{'type': 'function', 'name': …}"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_named(body: dict[str, Any], param: str, message: str) -> None:
    error = SERVER.error(**body)
    assert error["param"] == param
    assert message in error["message"]


def test_what_the_template_refuses_is_an_error_of_the_input() -> None:
    error = Server(template="{{ raise_exception('no such talk') }}").error()
    assert error["param"] == "input"
    assert "no such talk" in error["message"]
