"""/v1/chat/completions through the official client, against tokens computed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.protocol import Request
from tests.server.clients import events, make_app, openai_client, post, run
from tests.server.fakes import END, FakeEngine

MODEL = "fake/model"
HELLO = [{"role": "user", "content": "Hi"}]


def create(app: Any, **body: Any) -> Any:
    async def work() -> Any:
        async with openai_client(app) as client:
            return await client.chat.completions.create(
                **{"model": MODEL, "messages": HELLO, "max_tokens": 3} | body
            )

    return run(work())


def stream(app: Any, **body: Any) -> list[Any]:
    fields = {"messages": HELLO, "max_tokens": 3, "stream": True}
    return events(post(app, "/v1/chat/completions", fields | body))


def prompt_of(body: dict[str, Any], **config: Any) -> bytes:
    """The prompt that a body renders to; the end token, which has no byte, as "/"."""
    engine = FakeEngine()
    answer = post(make_app(engine, **config), "/v1/chat/completions", body | {"max_tokens": 1})
    assert answer.status_code == 200, answer.text
    return bytes(ord("/") if i == END else i for i in engine.requests[0].prompt_token_ids)


def test_answers() -> None:
    answer = create(make_app())
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "abc")
    assert (choice.finish_reason, choice.logprobs) == ("length", None)
    assert answer.usage.completion_tokens == 3
    assert answer.usage.prompt_tokens == len("[user]Hi/[assistant]")


def test_max_tokens_defaults_to_the_models_length() -> None:
    app = make_app(FakeEngine(max_model_len=30))
    body = {"messages": HELLO}
    usage = post(app, "/v1/chat/completions", body).json()["usage"]
    assert usage["total_tokens"] == 30
    assert create(app, max_tokens=None, max_completion_tokens=2).usage.completion_tokens == 2


def test_roles_parts_and_names() -> None:
    messages = [
        {"role": "developer", "content": "Be"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "tool_calls": [], "refusal": None, "audio": None},
        {"role": "user", "content": "", "name": "Ann"},
    ]
    expected = b"[system]Be/[user]a\nb/[assistant]c/[user]/[assistant]"
    assert prompt_of({"messages": messages}) == expected


def test_template_options() -> None:
    body = {"messages": HELLO, "add_generation_prompt": False}
    assert prompt_of(body) == b"[user]Hi/"
    body = {"messages": HELLO, "chat_template_kwargs": {"extra": "!"}}
    assert prompt_of(body) == b"[user]Hi/[assistant]!"


def test_the_servers_variables_of_the_template_are_below_those_of_a_request() -> None:
    config = {"template_kwargs": {"extra": "?"}}
    body = {"messages": HELLO}
    assert prompt_of(body, **config) == b"[user]Hi/[assistant]?"
    own = body | {"chat_template_kwargs": {"extra": "!"}}
    assert prompt_of(own, **config) == b"[user]Hi/[assistant]!"
    tokens = post(make_app(**config), "/tokenize", body).json()["tokens"]
    assert tokens[-1] == ord("?")


def test_special_tokens_are_the_templates_unless_asked_for() -> None:
    engine = FakeEngine()
    post(make_app(engine), "/v1/chat/completions", {"messages": HELLO, "add_special_tokens": True})
    assert engine.requests[0].prompt_token_ids[0] == 256


def test_stream_begins_with_the_roles() -> None:
    chunks = stream(make_app(), n=2)
    assert [(c["choices"][0]["index"], c["choices"][0]["delta"]) for c in chunks[:2]] == [
        (0, {"role": "assistant", "content": ""}),
        (1, {"role": "assistant", "content": ""}),
    ]
    assert {chunk["object"] for chunk in chunks[:-1]} == {"chat.completion.chunk"}
    assert chunks[-1] == "[DONE]"


def test_stream_says_the_same_as_the_whole() -> None:
    app = make_app()
    body = {"n": 2, "logprobs": True, "top_logprobs": 2, "return_token_ids": True}
    whole = post(app, "/v1/chat/completions", {"messages": HELLO, "max_tokens": 3} | body).json()
    chunks = stream(app, **body)
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    for choice in whole["choices"]:
        parts = [c for k in chunks[:-1] for c in k["choices"] if c["index"] == choice["index"]]
        text = "".join(part["delta"].get("content", "") for part in parts)
        assert text == choice["message"]["content"]
        logprobs = [entry for part in parts[1:] for entry in part["logprobs"]["content"]]
        assert logprobs == choice["logprobs"]["content"]
        assert [i for part in parts[1:] for i in part["token_ids"]] == choice["token_ids"]
        assert [part["finish_reason"] for part in parts] == [None, None, None, "length"]


def test_official_client_reads_the_stream() -> None:
    async def work() -> tuple[str, Any]:
        async with openai_client(make_app()) as client:
            parts, usage = [], None
            chunks = await client.chat.completions.create(
                model=MODEL,
                messages=HELLO,
                max_completion_tokens=4,
                stream=True,
                stream_options={"include_usage": True},
            )
            async for chunk in chunks:
                usage = chunk.usage or usage
                parts += [choice.delta.content or "" for choice in chunk.choices]
            return "".join(parts), usage

    text, usage = run(work())
    assert text == "abcd"
    assert usage.completion_tokens == 4


def test_logprobs() -> None:
    def says(request: Request, index: int) -> list[int]:
        return list("é".encode())

    answer = create(make_app(FakeEngine(says=says)), max_tokens=2, logprobs=True, top_logprobs=1)
    first, second = answer.choices[0].logprobs.content
    assert (first.token, first.bytes, first.logprob) == ("\N{REPLACEMENT CHARACTER}", [0xC3], -0.5)
    assert [top.bytes for top in first.top_logprobs] == [[0xC3]]
    assert second.bytes == [0xA9]
    assert answer.choices[0].message.content == "é"
    assert create(make_app(), logprobs=True).choices[0].logprobs.content[0].top_logprobs == []


def test_prompt_logprobs() -> None:
    body = {"messages": HELLO, "prompt_logprobs": 0}
    answer = post(make_app(), "/v1/chat/completions", body).json()
    assert answer["prompt_logprobs"][0] is None
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]


def test_fields_that_ask_for_nothing_are_accepted() -> None:
    body = {"messages": HELLO, "tools": [], "tool_choice": "none", "functions": [],
            "response_format": {"type": "text"}, "parallel_tool_calls": True,
            "modalities": ["text"], "store": None, "continue_final_message": False,
            "reasoning_effort": None, "stream": True,
            "stream_options": {"include_obfuscation": False}}  # fmt: skip
    assert post(make_app(), "/v1/chat/completions", body).status_code == 200


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_both_names_of_max_tokens(field: str) -> None:
    body = {"messages": HELLO, field: 2}
    assert post(make_app(), "/v1/chat/completions", body).json()["usage"]["completion_tokens"] == 2
