"""What the model reads of a conversation in /v1/messages, and what is refused of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.messages_routes.serving import HELLO, Server
from tests.server.clients import run

SERVER = Server("x")
END = "[assistant]thinks=False"
CALL = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "4"}


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def test_a_system_prompt_comes_first() -> None:
    assert SERVER.prompt(system="Be brief.") == f"[system]Be brief.[user]Hi{END}"
    parts = [text("One.", cache_control={"type": "ephemeral"}), text("Two.")]
    assert SERVER.prompt(system=parts) == f"[system]One.\nTwo.[user]Hi{END}"
    assert SERVER.prompt(system="") == f"[user]Hi{END}"


def test_what_differs_in_each_request_of_an_agent_is_no_part_of_the_prompt() -> None:
    note = text("x-anthropic-billing-header: cc_version=2; cch=1f3;")
    assert SERVER.prompt(system=[note, text("Be brief.")]) == f"[system]Be brief.[user]Hi{END}"


def test_a_whole_turn_of_an_agent_is_read() -> None:
    turns = [
        user(text("Add."), text("Now.", cache_control={"type": "ephemeral"})),
        assistant(
            {"type": "thinking", "thinking": "Hm.", "signature": "abc"},
            {"type": "redacted_thinking", "data": "secret"},
            text("I add."),
            CALL,
            CALL | {"id": "t2", "name": "g", "caller": {"type": "direct"}},
        ),
        user(
            RESULT | {"content": [text("4")]},
            RESULT | {"tool_use_id": "t2", "is_error": True},
            text("Go on."),
        ),
        assistant({"type": "thinking", "thinking": "So.", "signature": ""}, text("Done.")),
        {"role": "user", "content": "Thanks"},
    ]
    assert SERVER.prompt(messages=turns) == (
        "[user]Add.\nNow.[assistant](Hm.)I add.t1:f{'a': 1}t2:g{'a': 1}[tool]4[tool]Error: 4"
        f"[user]Go on.[assistant](So.)Done.[user]Thanks{END}"
    )


def test_consecutive_messages_of_a_role_are_one() -> None:
    turns = [*HELLO, user(text("there")), assistant(CALL), assistant(CALL | {"id": "t2"})]
    prompt = SERVER.prompt(messages=[*turns, user(RESULT | {"content": None})])
    assert prompt == f"[user]Hi\nthere[assistant]t1:f{{'a': 1}}t2:f{{'a': 1}}[tool]{END}"


def test_a_last_message_of_the_assistant_is_continued() -> None:
    prompt = SERVER.prompt(messages=[*HELLO, {"role": "assistant", "content": "The answer is ("}])
    assert prompt == "[user]Hi[assistant]The answer is ("


def test_an_answer_can_be_sent_back_as_it_is() -> None:
    async def work() -> None:
        server = Server('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>')
        tool = {"name": "f", "input_schema": {"type": "object"}}
        asked: dict[str, Any] = {"model": "fake/model", "max_tokens": 1000, "tools": [tool]}
        async with server.client() as client:
            first = await client.messages.create(**asked, messages=HELLO)
            [call] = first.content
            result = {"type": "tool_result", "tool_use_id": call.id, "content": "4"}
            turns = [*HELLO, {"role": "assistant", "content": first.content}, user(result)]
            await client.messages.create(**asked, messages=turns)
        prompt = bytes(server.engine.requests[-1].prompt_token_ids).decode()
        assert f"[assistant]{call.id}:f{{'a': 1}}[tool]4[assistant]" in prompt

    run(work())


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"model": ...}, "the field 'model' is required"),
        ({"max_tokens": ...}, "the field 'max_tokens' is required"),
        ({"max_tokens": 0}, "max_tokens must be greater than or equal to 1, got 0"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role must be one of"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content must be"),
        ({"messages": [{"role": "user", "content": "x", "id": "1"}]}, "'messages[0].id'"),
        ({"messages": [user({"type": "image", "source": {}})]}, "messages[0].content[0] must be"),
        ({"messages": [user(CALL)]}, "type text or tool_result"),
        ({"messages": [user(RESULT)]}, "messages[0].content[0].tool_use_id must be"),
        ({"messages": [*HELLO, assistant(CALL)]}, "must not end with a tool_use block"),
        ({"messages": [assistant(CALL | {"input": "{}"})]}, "content[0].input must be an object"),
        ({"messages": [user(text("x", citations="x"))]}, "content[0].citations = 'x' is refused"),
        ({"system": [{"type": "image"}]}, "system[0] must be a block of type text"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "runs no tools of its own"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema must be"),
        ({"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]}, "defer_loading"),
        ({"tool_choice": {"type": "any"}}, "needs tools"),
        ({"tool_choice": "auto"}, "tool_choice must be"),
        ({"tool_choice": {"type": "none", "name": "f"}}, "tool_choice must be"),
        ({"temperature": 1.5}, "temperature must be"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management"),
        ({"context_management": {"edits": 5}}, "context_management"),
        ({"output_config": {"other": 1}}, "output_config.other"),
        ({"output_config": {"format": {"type": "text"}}}, "output_config.format must be"),
        ({"seed": 1}, "unknown field 'seed'"),
    ],
    ids=str,
)
def test_what_is_refused_is_named(body: dict[str, Any], named: str) -> None:
    assert named in SERVER.error(**body)
