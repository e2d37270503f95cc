"""/v1/messages with the official client, against answers that are written by hand."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from flaxen.output_parsers.thinking_budget import ThinkingBudget
from tests.messages_routes.serving import ALWAYS_THINKS, HELLO, THINKS, Server
from tests.server.clients import get, post, run

TOOL = {
    "name": "f",
    "description": "Does it.",
    "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}},
}
OTHER = {"name": "g", "input_schema": {"type": "object"}}
CALLS = (
    'I look.\n<tool_call>{"name": "f", "arguments": {"a": "é"}}</tool_call>\n'
    '<tool_call>{"name": "g", "arguments": {}}</tool_call>'
)
ENABLED = {"type": "enabled", "budget_tokens": 1024}
PROMPT = "[user]Hi[assistant]thinks=False"
ASK: dict[str, Any] = {"model": "fake/model", "max_tokens": 1000, "messages": HELLO}


def test_an_answer_is_a_message() -> None:
    server = Server("Hello")
    message = server.message()
    assert server.prompt() == PROMPT
    assert message.pop("id").startswith("msg-")
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": "fake/model",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": len(PROMPT) - 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 6,
            "service_tier": "standard",
        },
    }


def test_how_an_answer_ended() -> None:
    limited = Server("Hello").message(max_tokens=2)
    assert (limited["stop_reason"], limited["content"][0]["text"]) == ("max_tokens", "He")
    called = Server(CALLS).message(tools=[TOOL, OTHER])
    assert called["stop_reason"] == "tool_use"


def test_more_tokens_than_there_is_room_for_are_told_by_the_stop_reason() -> None:
    server = Server("a" * 9000)
    message = server.message(max_tokens=32_000)
    assert message["stop_reason"] == "model_context_window_exceeded"
    assert message["usage"]["output_tokens"] == 4096 - len(PROMPT)


def test_a_prompt_that_is_too_long_is_told_as_agents_expect() -> None:
    server = Server()
    long = [{"role": "user", "content": "a" * 5000}]
    assert server.error(messages=long).startswith("prompt is too long: ")
    counted = server.post("/v1/messages/count_tokens", messages=long, max_tokens=...)
    assert counted.json() == {"input_tokens": len(PROMPT) + 4998}


def test_calls_are_blocks() -> None:
    text, first, second = Server(CALLS).message(tools=[TOOL, OTHER])["content"]
    assert text == {"type": "text", "text": "I look."}
    assert first.pop("id") != second.pop("id")
    assert first == {"type": "tool_use", "name": "f", "input": {"a": "é"}}
    assert second == {"type": "tool_use", "name": "g", "input": {}}


def test_one_call_at_most_if_asked() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    blocks = Server(CALLS).message(tools=[TOOL, OTHER], tool_choice=choice)["content"]
    assert [block["type"] for block in blocks] == ["text", "tool_use"]


@pytest.mark.parametrize(
    ("choice", "shown"),
    [({"type": "none"}, ""), ({"type": "tool", "name": "g"}, "<g "), ({"type": "any"}, "<f ")],
    ids=str,
)
def test_the_choice_says_which_tools_are_shown(choice: dict[str, Any], shown: str) -> None:
    prompt = Server("x").prompt(tools=[TOOL, OTHER], tool_choice=choice)
    assert prompt.startswith(shown or "[user]Hi")


def test_a_schema_is_shown_as_it_was_sent() -> None:
    prompt = Server("x").prompt(tools=[TOOL | {"type": "custom", "cache_control": {}}])
    assert prompt.startswith(f"<f {TOOL['input_schema']}>[user]Hi")


def test_thoughts_are_a_block_if_they_are_asked_for() -> None:
    server = Server("<think>So.</think>Yes", THINKS)
    asked = {"max_tokens": 2000, "thinking": ENABLED}
    thinking = {"type": "thinking", "thinking": "So.", "signature": "unsigned"}
    answer = {"type": "text", "text": "Yes"}
    assert server.message(**asked)["content"] == [thinking, answer]
    assert server.message(thinking={"type": "adaptive"})["content"] == [thinking, answer]
    assert server.message()["content"] == [answer]
    hidden = {"type": "adaptive", "display": "omitted"}
    assert server.message(thinking=hidden)["content"] == [answer]


@pytest.mark.parametrize(
    ("thinking", "thinks"),
    [(ENABLED, True), ({"type": "adaptive"}, True), ({"type": "disabled"}, False), (None, False)],
    ids=str,
)
def test_thinking_is_the_switch_of_the_template(thinking: Any, thinks: bool) -> None:
    prompt = Server("x", THINKS).prompt(thinking=thinking, max_tokens=2000)
    assert prompt.endswith(f"thinks={thinks}")


def test_a_budget_bounds_the_thoughts() -> None:
    server = Server("x", THINKS)
    server.message(thinking=ENABLED, max_tokens=2000)
    make_grammar = server.engine.requests[-1].grammar
    assert make_grammar is not None
    assert isinstance(make_grammar(), ThinkingBudget)
    server.message(thinking={"type": "adaptive"})
    assert server.engine.requests[-1].grammar is None


def test_an_answer_in_the_form_of_a_schema_has_a_structure() -> None:
    server = Server("{}")
    form = {"type": "json_schema", "schema": {"type": "object"}}
    server.message(output_config={"format": form})
    assert server.engine.requests[-1].grammar is not None


def test_what_a_model_can_not_do_about_thinking_is_refused() -> None:
    assert "can't be turned off" in Server("x", ALWAYS_THINKS).error(thinking={"type": "disabled"})
    assert "no reasoning" in Server("x", "{{ messages[0].content }}").error(
        thinking=ENABLED, max_tokens=2000
    )
    server = Server("x", THINKS)
    assert "below max_tokens (1000)" in server.error(thinking=ENABLED)
    assert "at least 1024" in server.error(thinking=ENABLED | {"budget_tokens": 5}, max_tokens=9)
    assert "thinking must be" in server.error(thinking={"type": "between_tools"})
    assert "effort must be one of" in server.error(output_config={"effort": "least"})


def test_effort_is_the_variable_of_a_template_that_has_one() -> None:
    asked = {"output_config": {"effort": "medium"}, "thinking": {"type": "adaptive"}}
    template = THINKS + "{{ reasoning_effort }}"
    assert Server("x", template).prompt(**asked).endswith("thinks=Truemedium")
    assert Server("x", THINKS).prompt(**asked).endswith("thinks=True")


def test_models_are_listed_for_the_official_client() -> None:
    async def work() -> None:
        async with Server("x", served_model_names=("a", "b")).client() as client:
            models = [model async for model in client.models.list()]
            assert [model.id for model in models] == ["a", "b"]
            assert models[0] == await client.models.retrieve("a")
            assert (models[0].type, models[0].display_name) == ("model", "fake/model")
            assert models[0].created_at.timestamp() == models[0].created

    run(work())


def test_streams_have_the_events_of_the_official_client() -> None:
    async def work() -> None:
        server = Server("<think>So.</think>" + CALLS, THINKS)
        asked = {**ASK, "max_tokens": 2000, "thinking": ENABLED, "tools": [TOOL, OTHER]}
        async with server.client() as client:
            async with client.messages.stream(**asked) as stream:
                kinds = [event.type async for event in stream]
                streamed = await stream.get_final_message()
            whole = await client.messages.create(**asked)
        assert kinds[0] == "message_start"
        assert kinds[-2:] == ["message_delta", "message_stop"]
        assert kinds.count("content_block_stop") == 4
        assert {"thinking", "text", "input_json", "signature"} <= set(kinds)
        assert without_ids(streamed) == without_ids(whole)
        kinds = [block.type for block in whole.content]
        assert kinds == ["thinking", "text", "tool_use", "tool_use"]
        assert whole.usage.cache_read_input_tokens == 4

    run(work())


def without_ids(message: anthropic.types.Message) -> Any:
    read = json.loads(message.model_dump_json())
    for each in (read, *read["content"]):
        each.pop("id", None)
        each.pop("parsed_output", None)  # the client's own
    read["usage"].pop("service_tier")  # the last event of a stream has none
    return read


def test_the_events_of_a_stream_as_they_are_sent() -> None:
    answer = Server("Hi").post(stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    parts = [part.split("\n") for part in answer.text.split("\n\n") if part]
    events = [(name.removeprefix("event: "), json.loads(data[6:])) for name, data in parts]
    assert all(name == data["type"] for name, data in events)
    start, *others = [data for _, data in events]
    assert start["message"]["usage"]["input_tokens"] == len(PROMPT)
    assert others == [
        {"type": "ping"},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": text},
            }
            for text in "Hi"
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {
                "input_tokens": len(PROMPT) - 4,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 4,
                "output_tokens": 3,
            },
        },
        {"type": "message_stop"},
    ]


def test_the_official_client_creates_and_counts() -> None:
    async def work() -> None:
        server = Server("Hello")
        async with server.client() as client:
            message = await client.messages.create(**ASK, system="Be brief.")
            assert message.content[0].text == "Hello"
            counted = await client.messages.count_tokens(
                model="fake/model", messages=HELLO, system="Be brief.", tools=[TOOL]
            )
            total = message.usage.input_tokens + message.usage.cache_read_input_tokens
            assert counted.input_tokens == total + len(f"<f {TOOL['input_schema']}>")

    run(work())


def test_sampling_is_the_engine_s() -> None:
    server = Server("x")
    server.message(temperature=0.25, top_p=0.5, top_k=7, stop_sequences=["a", "b"])
    sampling = server.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.25, 0.5, 7)
    assert (sampling.stop, sampling.max_tokens) == (("a", "b"), 1000)


def test_errors_are_in_the_form_of_the_official_client() -> None:
    async def work() -> None:
        async with Server(api_keys=("other",)).client() as client:
            with pytest.raises(anthropic.AuthenticationError) as refused:
                await client.messages.create(**ASK)
            assert refused.value.body["error"]["type"] == "authentication_error"
        async with Server().client() as client:
            with pytest.raises(anthropic.NotFoundError) as missing:
                await client.messages.create(**ASK | {"model": "other"})
            assert missing.value.body["error"]["type"] == "not_found_error"
        async with Server(api_keys=("any",)).client() as client:
            assert (await client.messages.create(**ASK)).stop_reason == "end_turn"

    run(work())


def test_an_error_inside_a_stream_is_an_event() -> None:
    server = Server("Hello")
    server.engine._raises = RuntimeError("secret")
    *_, last = [part for part in server.post(stream=True).text.split("\n\n") if part]
    name, data = last.split("\n")
    assert name == "event: error"
    error = json.loads(data.removeprefix("data: "))
    assert (error["type"], error["error"]["type"]) == ("error", "api_error")
    assert "secret" not in data


def test_other_errors_of_the_path_have_the_form_too() -> None:
    server = Server()
    for answer in (get(server.app, "/v1/messages"), post(server.app, "/v1/messages", b"[")):
        assert answer.json()["type"] == "error"
    assert "param" in get(server.app, "/v1/other").json()["error"]
