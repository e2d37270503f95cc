"""Readers of bodies: the same conversation is the same request, whichever API it comes by."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxen.router.request import Message, RoutedRequest, ToolCall, num_json_bytes
from flaxen.router.requests.readers import READERS, read_request

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
IMAGE = "data:image/png;base64,AAAA"
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"B"}'},
}

CHAT = {
    "model": "auto",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And"},
                {"type": "text", "text": "now?"},
                {"type": "image_url", "image_url": {"url": IMAGE}},
            ],
        },
    ],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "max_completion_tokens": 9,
    "metadata": {"tier": "gold"},
}
RESPONSES = {
    "model": "auto",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": "Hello"},
        {"type": "reasoning", "summary": []},
        {
            "type": "function_call",
            "call_id": "c1",
            "name": "weather",
            "arguments": '{"city":"B"}',
        },
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "And"},
                {"type": "input_text", "text": "now?"},
                {"type": "input_image", "image_url": IMAGE},
            ],
        },
    ],
    "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA}],
    "tool_choice": {"type": "function", "name": "weather"},
    "max_output_tokens": 9,
    "metadata": {"tier": "gold"},
}
MESSAGES = {
    "model": "auto",
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        {"role": "user", "content": "Hello"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "B"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "sunny"},
                {"type": "text", "text": "And"},
                {"type": "text", "text": "now?"},
                {"type": "image", "source": {"type": "url", "url": IMAGE}},
            ],
        },
    ],
    "tools": [{"name": "weather", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": "weather"},
    "max_tokens": 9,
    "metadata": {"tier": "gold"},
}


def _comparable(request: RoutedRequest) -> dict[str, Any]:
    found = {f.name: getattr(request, f.name) for f in dataclasses.fields(request)}
    found["tools"] = [tool.name for tool in request.tools]
    del found["api"]
    return found


def test_three_apis_read_one_conversation_alike() -> None:
    chat = read_request("chat", CHAT, {"X-Session-Id": "s"})
    assert chat.messages == (
        Message(role="system", text="Be brief."),
        Message(role="user", text="Hello"),
        Message(
            role="assistant",
            tool_calls=(ToolCall(id="c1", name="weather", arguments='{"city":"B"}'),),
        ),
        Message(role="tool", text="sunny", tool_call_id="c1"),
        Message(role="user", text="And now?", num_images=1),
    )
    assert chat.headers == {"x-session-id": "s"}
    assert (chat.tool_choice, chat.max_tokens, chat.metadata) == ("required", 9, {"tier": "gold"})
    assert ([tool.name for tool in chat.tools], chat.num_tools) == (["weather"], 1)
    (tool,) = CHAT["tools"]
    assert num_json_bytes(chat.tools[0].definition) == len(json.dumps(tool, separators=(",", ":")))
    for api, body in (("responses", RESPONSES), ("messages", MESSAGES)):
        other = read_request(api, body, {"X-Session-Id": "s"})
        assert (other.api, _comparable(other)) == (api, _comparable(chat))


def test_the_texts_that_signals_read() -> None:
    request = read_request("chat", CHAT)
    assert request.current_user == request.evaluation_text == "And now?"
    assert request.prior_user == ("Hello",)
    assert request.non_user == ("Be brief.",)
    assert request.modalities == {"text", "image"}
    assert not request.has_assistant_reply  # its call has no text


def test_a_later_message_without_text_does_not_clear_the_user_s_text() -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE}}]}
    said = {"role": "assistant", "content": "yes"}
    request = read_request(
        "chat", {"messages": [{"role": "user", "content": "Hello"}, said, image]}
    )
    assert (request.current_user, request.prior_user) == ("Hello", ())
    assert request.has_assistant_reply
    system_only = read_request("chat", {"messages": [{"role": "system", "content": "a"}, said]})
    assert (system_only.current_user, system_only.evaluation_text) == ("", "a yes")


def test_prompts_are_one_message_of_the_user() -> None:
    for api, name in (("completions", "prompt"), ("embeddings", "input")):
        assert read_request(api, {name: ["a", "b"]}).messages == (
            Message(role="user", text="a\nb"),
        )
        assert read_request(api, {name: "a"}).unread == ()
        for tokens in ([1, 2], [[1, 2], [3]]):
            request = read_request(api, {name: tokens})
            assert (request.evaluation_text, request.unread) == ("", ("token ids",))
        assert read_request(api, {}).messages == ()
    chat = read_request("embeddings", {"messages": CHAT["messages"]})
    assert (chat.api, chat.current_user) == ("embeddings", "And now?")


def test_what_no_signal_reads_is_named() -> None:
    parts = [{"type": "file", "file": {}}, {"type": "video_url"}, {"type": "input_audio"}]
    chat = read_request("chat", {"messages": [{"role": "user", "content": parts}]})
    assert (chat.unread, set(chat.modalities)) == (("file",), {"video", "audio"})
    items = [{"type": "mcp_call"}, {"role": "user", "content": [{"type": "input_file"}]}]
    assert read_request("responses", {"input": items}).unread == ("input_file", "mcp_call")
    text = {"type": "document", "source": {"type": "text", "data": "law"}}
    pdf = {"type": "document", "source": {"type": "base64", "data": "AAAA"}}
    found = read_request("messages", {"messages": [{"role": "user", "content": [text, pdf]}]})
    assert (found.current_user, found.unread) == ("law", ("document",))
    critic = read_request("chat", {"messages": [{"role": "critic", "content": "bad"}]})
    assert (critic.evaluation_text, critic.unread) == ("", ("role critic",))


def test_what_a_response_continues() -> None:
    body = {"input": "a", "previous_response_id": "resp_1", "conversation": {"id": "conv_1"}}
    request = read_request("responses", body)
    assert (request.previous_response_id, request.conversation_id) == ("resp_1", "conv_1")
    assert read_request("responses", {"conversation": "conv_2"}).conversation_id == "conv_2"


def test_calls_of_a_response_that_follow_each_other_are_one_message() -> None:
    calls = [
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "2", "name": "g", "input": "x"},
    ]
    (message,) = read_request("responses", {"input": calls}).messages
    assert message.tool_calls == (
        ToolCall(id="1", name="f", arguments="{}"),
        ToolCall(id="2", name="g", arguments="x"),
    )


@pytest.mark.parametrize(
    ("api", "given", "found"),
    [
        ("chat", None, ""),
        ("chat", "none", "none"),
        ("chat", {"type": "custom", "custom": {"name": "f"}}, "required"),
        ("chat", {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}, "auto"),
        ("responses", {"type": "allowed_tools", "mode": "required", "tools": []}, "required"),
        ("messages", {"type": "any"}, "required"),
        ("messages", {"type": "none"}, "none"),
        ("messages", None, ""),
    ],
)
def test_tool_choices_are_a_word(api: str, given: object, found: str) -> None:
    assert read_request(api, {"tool_choice": given}).tool_choice == found


def test_functions_of_older_clients_are_tools() -> None:
    call = {"name": "f", "arguments": "{}"}
    body = {
        "functions": [{"name": "f", "parameters": SCHEMA}],
        "function_call": {"name": "f"},
        "messages": [
            {"role": "assistant", "function_call": call},
            {"role": "function", "name": "f", "content": "1"},
        ],
    }
    request = read_request("chat", body)
    assert ([tool.name for tool in request.tools], request.tool_choice) == (["f"], "required")
    assert request.messages == (
        Message(role="assistant", tool_calls=(ToolCall(name="f", arguments="{}"),)),
        Message(role="tool", text="1"),
    )


@pytest.mark.parametrize(
    ("api", "body", "sentence"),
    [
        ("chat", {"messages": "hi"}, "messages must be a list of objects, got 'hi'"),
        ("chat", {"messages": [1]}, r"messages\[0\] must be an object, got 1"),
        ("chat", {"messages": [{"role": "user", "content": 1}]}, r"messages\[0\]\.content must be"),
        (
            "chat",
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            r"messages\[0\]\.content\[0\] of type text must have a text, got None",
        ),
        ("chat", {"messages": [{"content": "a"}]}, r"messages\[0\] must have a role, such as user"),
        ("chat", {"tool_choice": "any"}, "tool_choice must be auto, none, required or a tool"),
        ("chat", {"max_tokens": True}, "max_tokens must be a whole number of at least 1, got True"),
        ("chat", {"metadata": {"a": 1}}, r"metadata\.a must be a text, got 1"),
        ("chat", {"metadata": {"": "b"}}, "a key of metadata has 0 bytes, and must have 1 to 128"),
        ("chat", {"metadata": {"a": "é" * 513}}, r"metadata\.a has 1026 bytes, and may have 1024"),
        ("chat", {"metadata": {f"{i}": "" for i in range(33)}}, "metadata has 33 pairs"),
        ("responses", {"input": 3}, "input must be a list of objects, got 3"),
        ("messages", {"tool_choice": {"type": "x"}}, r"tool_choice\.type must be one of auto, any"),
        ("completions", {"prompt": [{}]}, "prompt must be texts or lists of token ids"),
        ("chat", {"chat_template_kwargs": "x"}, "chat_template_kwargs must be an object, got 'x'"),
        ("responses", {"reasoning": "high"}, "reasoning must be an object, got 'high'"),
        ("chat", {"top_logprobs": 2.5}, r"top_logprobs must be a whole number, got 2\.5"),
        ("completions", {"logprobs": "2"}, "logprobs must be a whole number, got '2'"),
    ],
)
def test_what_cannot_be_read_is_refused(api: str, body: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_request(api, body)


def test_every_api_has_a_reader_that_reads_nothing_too() -> None:
    for api in READERS:
        assert read_request(api, {}) == RoutedRequest(api=api, model="")


BODIES: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    "responses": RESPONSES,
    "messages": MESSAGES,
    "completions": {"prompt": ["a", [1]]},
    "embeddings": {"input": "a"},
}
VALUES: list[Any] = [
    None,
    "",
    "x",
    -1,
    True,
    [],
    {},
    [None],
    [[]],
    {"type": []},
    [{"type": "text"}],
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(BODIES)), st.data())
def test_a_body_is_read_or_refused(api: str, data: st.DataObject) -> None:
    body = json.loads(json.dumps(BODIES[api]))
    place = data.draw(st.sampled_from(list(places(body))))
    place[0][place[1]] = data.draw(st.sampled_from(VALUES))
    try:
        request = read_request(api, body)
    except ValueError:  # any other error would not be the client's
        return
    assert all(isinstance(message.text, str) for message in request.messages)
    assert all(num_json_bytes(tool.definition) > 0 for tool in request.tools)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All values inside a value, each as what it stands in and its key or index there."""
    keys = list(value) if isinstance(value, dict) else []
    if isinstance(value, list):
        keys = list(range(len(value)))
    for key in keys:
        yield value, key
        yield from places(value[key])
