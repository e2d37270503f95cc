"""A whole answer is the same after it was streamed, for each API; only finished answers count."""

from __future__ import annotations

import json
from typing import Any

import anthropic.types
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion import Completion
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from flaxen.router.plugins.answers.forms import text_answer
from flaxen.router.plugins.answers.streams import as_events, whole_answer

APIS = ("chat", "completions", "responses", "messages")
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def answers() -> dict[str, list[dict[str, Any]]]:
    """Answers of each API with all that its answers may have."""
    found = {api: [text_answer(api, "line\u2028é", "m", "1", 5)] for api in APIS}
    [chat], [plain] = found["chat"], found["completions"]
    rich = {"role": "assistant", "content": None, "reasoning_content": "hm", "refusal": None}
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]}
    found["chat"] += [
        chat
        | {
            "system_fingerprint": "v",
            "choices": [
                chat["choices"][0] | {"logprobs": logprobs | {"refusal": None}},
                {
                    "index": 1,
                    "finish_reason": "tool_calls",
                    "logprobs": None,
                    "message": rich | {"tool_calls": [CALL, CALL | {"id": "call_2"}]},
                },
            ],
        }
    ]
    tokens = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"a": -1.0}]}
    second = {"index": 1, "text": "b", "finish_reason": "length"}
    found["completions"] += [
        plain
        | {"choices": [*plain["choices"], second | {"logprobs": tokens | {"text_offset": [0]}}]}
    ]
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1, "é"]}},
    ]
    [message], [response] = found["messages"], found["responses"]
    found["messages"] += [
        message | {"content": message["content"] + blocks, "stop_reason": "tool_use"}
    ]
    items = [
        {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}]}
        | {"content": [{"type": "reasoning_text", "text": "hm"}], "status": "completed"},
        {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
        | {"status": "completed"},
        {"id": "ct_1", "type": "custom_tool_call", "call_id": "d", "name": "g", "input": "x"},
        {"id": "m_2", "type": "message", "role": "assistant", "status": "incomplete"}
        | {"content": [{"type": "refusal", "refusal": "no"}]},
    ]
    found["responses"] += [
        response
        | {"status": "incomplete", "output": response["output"] + items}
        | {"incomplete_details": {"reason": "max_output_tokens"}, "completed_at": None}
    ]
    return found


CASES = [(api, answer) for api, each in answers().items() for answer in each]


@pytest.mark.parametrize(("api", "answer"), CASES)
def test_an_answer_is_the_same_after_it_was_streamed(api: str, answer: dict[str, Any]) -> None:
    before = json.dumps(answer)
    events = as_events(api, answer)
    assert whole_answer(api, events, is_stream=True) == answer
    assert whole_answer(api, events.replace(b"\n", b"\r\n"), is_stream=True) == answer
    assert whole_answer(api, before.encode(), is_stream=False) == answer
    assert json.dumps(answer) == before


@pytest.mark.parametrize(("api", "answer"), CASES)
def test_no_part_of_a_stream_is_an_answer(api: str, answer: dict[str, Any]) -> None:
    """Wherever a stream breaks off, nothing is kept."""
    events = as_events(api, answer).split(b"\n\n")[:-1]
    for length in range(len(events)):
        cut = b"".join(event + b"\n\n" for event in events[:length])
        assert whole_answer(api, cut, is_stream=True) is None


@pytest.mark.parametrize(("api", "answer"), CASES)
def test_answers_and_events_are_of_the_official_clients_types(
    api: str, answer: dict[str, Any]
) -> None:
    data = [
        json.loads(line.removeprefix("data: "))
        for line in as_events(api, answer).decode().split("\n")
        if line.startswith("data: {")
    ]
    events: TypeAdapter[Any]
    if api == "messages":
        anthropic.types.Message.model_validate(answer)
        events = TypeAdapter(anthropic.types.RawMessageStreamEvent)
    elif api == "responses":
        Response.model_validate(answer)
        events = TypeAdapter(ResponseStreamEvent)
        assert [event["sequence_number"] for event in data] == list(range(len(data)))
        assert [event["response"]["output"] for event in data[:2]] == [[], []]
    else:
        (ChatCompletion if api == "chat" else Completion).model_validate(answer)
        events = TypeAdapter(ChatCompletionChunk if api == "chat" else Completion)
        if api == "completions":  # its chunks are whole answers but for their end
            for chunk in data:
                for choice in chunk["choices"]:
                    choice["finish_reason"] = choice["finish_reason"] or "stop"
    for event in data:
        events.validate_python(event)


@pytest.mark.parametrize(
    ("api", "body", "is_stream"),
    [
        ("chat", b'{"error": {"message": "no"}}', False),
        ("chat", b'{"choices": [{"index": 0, "message": {}, "finish_reason": null}]}', False),
        ("chat", b'{"choices": []}', False),
        ("chat", b"not json", False),
        ("chat", b'data: {"error": {"message": "no"}}\n\ndata: [DONE]\n\n', True),
        ("chat", b"data: [1]\n\ndata: [DONE]\n\n", True),
        ("messages", b'event: error\ndata: {"type": "error", "error": {}}\n\n', True),
        ("responses", b'data: {"type": "response.failed", "response": {}}\n\n', True),
        ("responses", b'{"status": "in_progress"}', False),
        ("embeddings", b'{"data": []}', False),
    ],
)
def test_what_is_no_finished_answer(api: str, body: bytes, is_stream: bool) -> None:
    assert whole_answer(api, body, is_stream=is_stream) is None


def test_pieces_of_a_stream_are_joined() -> None:
    """As servers send them: a role first, names whole, arguments in pieces, the end by itself."""
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"content": "b"},
        {"tool_calls": [call]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
        {},
    ]
    chunks = [
        {"id": "i", "object": "chat.completion.chunk", "usage": None, "choices": [choice]}
        for delta in deltas
        for choice in [{"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}]
    ]
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    function = {"name": "f", "arguments": '{"x":1}'}
    calls = [{"id": "c", "type": "function", "function": function}]
    message = {"role": "assistant", "content": "ab", "tool_calls": calls}
    assert whole_answer("chat", body.encode(), is_stream=True) == {
        "id": "i",
        "object": "chat.completion",
        "usage": None,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
