"""Requests of coding agents over /v1/chat/completions, as these send them."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from tests.server.clients import openai_client, post, run
from tests.server.fakes import END, FakeEngine, byte_tokenizer

TEMPLATE = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
    "{% for m in messages %}[{{ m.role }}]{% for part in ([m.content] if m.content is string "
    "else m.content or []) %}{{ part if part is string else part.text }}{% endfor %}"
    "{% for c in m.tool_calls or [] %}<{{ c.function.name }}>{% endfor %}{% endfor %}"
)
SAYS = 'I read.\n<tool_call>{"name": "read_file", "arguments": {"path": "a"}}</tool_call>'
TOOL = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Reads a file. " * 100,
        "strict": False,
        "parameters": {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": "p" * 500},
                "ranges": {"type": ["array", "null"], "items": {"type": "object"}},
            },
            "required": ["path", "ranges"],
            "additionalProperties": False,
        },
    },
}
SYSTEM = "s" * 20_000


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


@pytest.mark.parametrize(
    ("system", "result", "more"),
    [
        # One text each, and how much is asked for.
        (SYSTEM, "found", {"temperature": 0, "max_completion_tokens": 256}),
        # Parts with marks for caches, and every field that tools have.
        (
            [text(SYSTEM, cache_control={"type": "ephemeral"})],
            [text("found", cache_control={"type": "ephemeral"})],
            {"tool_choice": "auto", "parallel_tool_calls": True, "top_p": 1, "user": "u"},
        ),
        # Frameworks send null for each option that the user did not choose.
        (
            [text(SYSTEM)],
            [text("found")],
            {
                "tool_choice": "auto",
                "parallel_tool_calls": False,
                "stop": None,
                "seed": None,
                "response_format": None,
                "metadata": {"session": "a"},
                "store": False,
                "n": 1,
                "frequency_penalty": 0,
                "presence_penalty": 0,
            },
        ),
    ],
)
def test_turns_with_tools_go_round(system: Any, result: Any, more: dict[str, Any]) -> None:
    engine = FakeEngine(says=lambda request, index: [*SAYS.encode(), END], max_model_len=65_536)
    app = create_app(engine, byte_tokenizer(TEMPLATE), ServerConfig())
    asked: dict[str, Any] = {
        "model": "fake/model",
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [TOOL],
        **more,
    }

    async def work() -> None:
        messages: list[Any] = [{"role": "system", "content": system}, user("Go"), user("<env>")]
        async with openai_client(app) as client:
            for _ in range(2):
                words, call, usage = "", {"id": "", "name": "", "arguments": ""}, None
                async for chunk in await client.chat.completions.create(**asked, messages=messages):
                    usage = chunk.usage or usage
                    for choice in chunk.choices:
                        words += choice.delta.content or ""
                        for delta in choice.delta.tool_calls or ():
                            call["id"] += delta.id or ""
                            call["name"] += delta.function.name or ""
                            call["arguments"] += delta.function.arguments or ""
                assert (words, call["name"]) == ("I read.", "read_file")
                assert call["arguments"] == '{"path": "a"}'
                assert usage.prompt_tokens > 20_000
                function = {"name": call["name"], "arguments": call["arguments"]}
                calls = [{"id": call["id"], "type": "function", "function": function}]
                messages += [
                    {"role": "assistant", "content": words or None, "tool_calls": calls},
                    {"role": "tool", "tool_call_id": call["id"], "content": result},
                ]

    run(work())
    first, second = (bytes(each.prompt_token_ids).decode() for each in engine.requests)
    # The second request begins as the first one, so that its prefix is found in the cache.
    assert second == f"{first}[assistant]I read.<read_file>[tool]found"


def user(value: str) -> dict[str, Any]:
    return {"role": "user", "content": [text(value)]}


def test_an_image_is_refused_by_its_name() -> None:
    engine = FakeEngine()
    app = create_app(engine, byte_tokenizer(TEMPLATE), ServerConfig())
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    answer = post(app, "/v1/chat/completions", {"messages": [{"role": "user", "content": [image]}]})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "messages[0].content[0]")
    assert "'text', the only kind the model reads, got 'image_url'" in error["message"]
