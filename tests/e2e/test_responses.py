"""The Responses API of SmolLM2 through the official client: whole, streamed, continued, kept."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest

from tests.e2e.serving import MODEL, Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ASKED: dict[str, Any] = {
    "model": MODEL,
    "input": "What is the capital of Germany?",
    "temperature": 0,
}


def test_a_conversation_is_kept_by_the_server(server: Server) -> None:
    responses = server.openai.responses
    first = responses.create(**ASKED)
    assert "Berlin" in first.output_text
    assert (first.status, first.usage.output_tokens) == ("completed", 8)
    chat = [{"role": "user", "content": ASKED["input"]}]
    assert server.chat(chat).choices[0].message.content == first.output_text

    follow: dict[str, Any] = ASKED | {"input": "And of France?", "previous_response_id": first.id}
    events = list(responses.create(**follow, stream=True))
    second = events[-1].response
    assert "".join(event.delta for event in events if event.type.endswith("text.delta")) == (
        second.output_text
    )
    asked_again = [
        *chat,
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And of France?"},
    ]
    assert server.chat(asked_again).choices[0].message.content == second.output_text
    # The first turn, prompt and answer, was computed before: all of its full pages are found.
    cached = second.usage.input_tokens_details.cached_tokens
    assert 16 <= cached <= first.usage.total_tokens
    assert responses.retrieve(second.id) == second
    items = responses.input_items.list(second.id, order="asc").data
    assert [item.role for item in items] == ["user", "assistant", "user"]
    responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="is not kept here"):
        responses.create(**follow)


def test_a_response_in_the_background_is_cancelled(server: Server) -> None:
    responses = server.openai.responses
    long = ASKED | {"input": "Count.", "extra_body": {"ignore_eos": True}}
    response = responses.create(**long, background=True, max_output_tokens=900)
    deadline_s = time.monotonic() + 60
    while not responses.retrieve(response.id).output:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    cancelled = responses.cancel(response.id)
    assert cancelled.status == "cancelled"
    assert 0 < cancelled.usage.output_tokens < 900
    assert responses.retrieve(response.id) == cancelled


def test_a_schema_is_followed(server: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Berlin", "Paris"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}
    response = server.openai.responses.create(**ASKED, text={"format": form})
    assert response.status == "completed"
    assert response.output_text.replace(" ", "").replace("\n", "") in (
        '{"city":"Berlin"}',
        '{"city":"Paris"}',
    )
