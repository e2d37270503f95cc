"""Requests of coding agents that were made for Anthropic's API, as these send them."""

from __future__ import annotations

import json
from typing import Any

from tests.messages_routes.serving import THINKS, Server
from tests.server.clients import post

EPHEMERAL = {"type": "ephemeral"}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {f"option{i}": {"type": "string", "description": "o" * 200} for i in range(50)},
    "required": ["option0"],
    "additionalProperties": False,
}
SYSTEM = [
    {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.126; cch=251fe;"},
    {"type": "text", "text": "You are an agent."},
    {"type": "text", "text": "s" * 80_000, "cache_control": EPHEMERAL | {"scope": "global"}},
    {"type": "text", "text": "# Session", "cache_control": EPHEMERAL | {"ttl": "1h"}},
]
ASKED: dict[str, Any] = {
    "max_tokens": 128_000,
    "stream": True,
    "system": SYSTEM,
    "tools": [
        {"name": f"Tool{i}", "description": "d" * 2000, "input_schema": SCHEMA} for i in range(17)
    ],
    "metadata": {"user_id": json.dumps({"device_id": "d", "session_id": "s"})},
    "thinking": {"type": "adaptive", "display": "summarized"},
    "output_config": {"effort": "medium"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "diagnostics": {"previous_message_id": None},
}
HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,effort-2025-11-24",
    "x-stainless-lang": "js",
    "x-app": "cli",
}
SAYS = (
    "<think>Look.</think>I look."
    '<tool_call>{"name": "Tool1", "arguments": {"option0": "a"}}</tool_call>'
)


def turn(server: Server, messages: list[dict[str, Any]]) -> tuple[list[Any], str]:
    """The blocks that a stream makes, and the prompt that was asked."""
    body = {"model": "fake/model", **ASKED, "messages": messages}
    answer = post(server.app, "/v1/messages?beta=true", body, headers=HEADERS)
    assert answer.status_code == 200, answer.text
    blocks: list[Any] = []
    for line in answer.text.splitlines():
        event = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
        if event.get("type") == "content_block_start":
            blocks.append(event["content_block"])
        for name, piece in event.get("delta", {}).items():
            if name == "partial_json":
                blocks[-1]["input"] = json.loads(piece)
            elif event["type"] == "content_block_delta" and name != "type":
                blocks[-1][name] += piece
    return blocks, bytes(server.engine.requests[-1].prompt_token_ids).decode()


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def test_turns_with_tools_and_thoughts_go_round() -> None:
    server = Server(SAYS, THINKS, length=400_000)
    reminder = {"type": "text", "text": "<system-reminder>Be careful.</system-reminder>"}
    history = [user(reminder, {"type": "text", "text": "Go", "cache_control": EPHEMERAL})]
    prompts = []
    for result in ("none", [{"type": "text", "text": "two"}]):
        blocks, prompt = turn(server, history)
        assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use"]
        prompts.append(prompt.removesuffix("[assistant]thinks=True"))
        found = {
            "type": "tool_result",
            "tool_use_id": blocks[-1]["id"],
            "content": result,
            "is_error": result == "none",
            "cache_control": EPHEMERAL,
        }
        history += [{"role": "assistant", "content": blocks}, user(found, reminder)]
    first, second = prompts
    assert "billing" not in first
    # The second request begins as the first one, so that its prefix is found in the cache.
    call = f"{history[1]['content'][-1]['id']}:Tool1{{'option0': 'a'}}"
    assert second == (
        f"{first}[assistant](Look.)I look.{call}[tool]Error: none[user]{reminder['text']}"
    )


def test_a_turn_is_counted_as_it_is_asked() -> None:
    server = Server("x", THINKS, length=400_000)
    kept = ("system", "tools", "thinking", "output_config", "context_management")
    body = {"model": "fake/model", "messages": [user({"type": "text", "text": "Go"})]}
    body |= {name: ASKED[name] for name in kept}
    counted = post(server.app, "/v1/messages/count_tokens?beta=true", body, headers=HEADERS)
    turn(server, body["messages"])
    assert counted.json() == {"input_tokens": len(server.engine.requests[-1].prompt_token_ids)}


def test_what_only_anthropic_s_servers_do_is_refused_by_its_name() -> None:
    server = Server("x")
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
    assert "tools[0].type = 'web_search_20250305' is refused" in server.error(tools=[search])
    pixel = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    error = server.error(messages=[user({"type": "image", "source": pixel})])
    assert "must be a block of type text or tool_result" in error
    assert "got 'image'" in error
