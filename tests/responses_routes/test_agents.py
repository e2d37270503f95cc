"""The requests of a coding agent, which keeps the conversation itself and sends all of it again."""

from __future__ import annotations

from typing import Any

from tests.responses_routes.serving import Server

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
ASKED: dict[str, Any] = {
    "model": "fake/model",
    "instructions": "You are an agent. " * 100,
    "tools": [SHELL],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0198a1b2",
    "text": {"verbosity": "medium"},
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
