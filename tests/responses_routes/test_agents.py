"""The requests of a coding agent, which keeps the conversation itself and sends all of it again."""

from __future__ import annotations

import json
from typing import Any

from tests.responses_routes.serving import PATH, TEMPLATE, Server
from tests.server.clients import post

SHELL = {
    "type": "function",
    "name": "f",
    "description": "Runs a command. " * 200,
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    },
}
SEARCH = {"type": "web_search", "external_web_access": False}
ASKED: dict[str, Any] = {
    "model": "fake/model",
    "instructions": "You are an agent. " * 100,
    "tools": [SHELL, SEARCH],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0198a1b2",
    "text": {"verbosity": "medium"},
    "client_metadata": {"x-codex-installation-id": "0198a1b2"},
}


def text(role: str, *texts: str) -> dict[str, Any]:
    parts = [{"type": "input_text", "text": each} for each in texts]
    return {"type": "message", "role": role, "content": parts}


def test_turns_go_round() -> None:
    server = Server(max_model_len=8192)
    history = [
        text("developer", "<permissions>"),
        text("user", "<environment>"),
        text("user", "Go"),
    ]
    prompts = []
    for result in ("ok", {"output": "no such file", "success": False}):
        events = server.stream(**ASKED, input=history)
        prompts.append(bytes(server.engine.requests[-1].prompt_token_ids).decode())
        items = [each["item"] for each in events if each["type"] == "response.output_item.done"]
        assert items == events[-1]["response"]["output"]
        assert events[-1]["response"]["tools"] == [SHELL]
        [call] = [item for item in items if item["type"] == "function_call"]
        # Agents drop what they do not know, and fields that are null.
        for item in items:
            item.pop("status")
            if item["type"] == "reasoning":
                item["encrypted_content"] = None
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": str(result)}
        history += [*items, output]
    first, second = prompts
    assert first == (
        f"f [system]{ASKED['instructions']}\n\n<permissions>[user]<environment>[user]Gomedium"
    )
    # The second request begins as the first one, so that its prefix is found in the cache.
    assert second == first.removesuffix("medium") + (
        "[assistant](They ask.)I look é.<f é>[tool]okmedium"
    )


PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin" /(.+)/'},
}
SPACE = {
    "type": "namespace",
    "name": "mcp__docs",
    "description": "Tools of docs.",
    "tools": [SHELL | {"name": "look_up", "description": "Looks up.", "defer_loading": True}],
}


def says(name: str, arguments: dict[str, Any]) -> str:
    called = {"name": name, "arguments": arguments}
    return f"<tool_call>{json.dumps(called, ensure_ascii=False)}</tool_call>"


def test_a_freeform_tool_gets_a_text() -> None:
    diff = "*** Begin Patch\n+é\n"
    server = Server(says("apply_patch", {"input": diff}), max_model_len=8192)
    events = server.stream(input="Go", tools=[PATCH])
    [call] = events[-1]["response"]["output"]
    assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "apply_patch", diff)
    assert call["id"].startswith("ctc_")
    assert [e["input"] for e in events if e["type"].endswith("input.done")] == [diff]
    assert events[-1]["response"]["tools"] == [PATCH]
    output = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "Done"}
    template = TEMPLATE.replace("arguments.a", "arguments.input")
    server = Server(template=template, max_model_len=8192)
    prompt = server.prompt(input=[call, output], tools=[PATCH], store=False)
    assert prompt == f"apply_patch [assistant]<apply_patch {diff}>[tool]Done"


def test_a_tool_of_a_namespace_is_called_by_both_names() -> None:
    server = Server(says("mcp__docs__look_up", {"a": "x"}), max_model_len=8192)
    for choice in ("auto", {"type": "function", "name": "look_up", "namespace": "mcp__docs"}):
        response = server.create(tools=[SPACE, SHELL], tool_choice=choice, store=False)
        [call] = response["output"]
        assert (call["namespace"], call["name"]) == ("mcp__docs", "look_up")
        assert response["tools"][0] == SPACE
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": [
        {"type": "input_text", "text": "Refused."}]}  # fmt: skip
    prompt = server.prompt(input=[call, output], tools=[SPACE, SHELL])
    assert prompt == ("mcp__docs__look_up f [assistant]<mcp__docs__look_up x>[tool]Refused.")


def test_items_may_be_named_in_place_of_sent() -> None:
    server = Server()
    output = server.create(tools=[SHELL])["output"]
    named = [{"type": "item_reference", "id": item["id"]} for item in output]
    result = {
        "type": "function_call_output", "call_id": output[-1]["call_id"], "output": "ok",
    }  # fmt: skip
    asked = [{"role": "user", "content": "Hi"}, *named, result]
    whole = [{"role": "user", "content": "Hi"}, *output, result]
    assert server.prompt(input=asked, tools=[SHELL]) == server.prompt(input=whole, tools=[SHELL])
    unkept = server.create(tools=[SHELL], store=False)["output"][0]["id"]
    for item_id in (unkept, named[0]["id"][:-1], "msg_1"):
        answer = post(server.app, PATH, {"input": [{"type": "item_reference", "id": item_id}]})
        assert answer.status_code == 404
        assert "is not kept here: send it whole" in answer.json()["error"]["message"]
