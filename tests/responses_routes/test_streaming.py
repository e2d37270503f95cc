"""The events of a stream: all of them, in their order, and equal to the whole response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.responses_routes.serving import PATH, TOOL, Server
from tests.server.clients import openai_client, post, run
from tests.server.fakes import ERROR

ORDER = [
    "created", "in_progress",
    "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done",
    "content_part.done", "output_item.done",
    "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
    "content_part.done", "output_item.done",
    "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
    "output_item.done",
    "completed",
]  # fmt: skip


def without_ids(value: Any) -> Any:
    """A response without what is new in each: ids and times."""
    if isinstance(value, list):
        return [without_ids(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    new = ("id", "call_id", "created_at", "completed_at")
    return {name: without_ids(each) for name, each in value.items() if name not in new}


def test_events_come_in_their_order() -> None:
    kinds = [event["type"].removeprefix("response.") for event in Server().stream(tools=[TOOL])]
    merged = [kind for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1]]
    assert merged == ORDER


@pytest.mark.parametrize("length", [5, 25, 35, 60, 500])
def test_a_stream_is_the_whole_response(length: int) -> None:
    server = Server()
    asked: dict[str, Any] = {
        "tools": [TOOL],
        "max_output_tokens": length,
        "include": ["message.output_text.logprobs"],
    }
    events = server.stream(**asked)
    last = events[-1]["response"]
    assert events[-1]["type"] == f"response.{last['status']}"
    assert without_ids(last) == without_ids(server.create(**asked))
    for index, item in enumerate(last["output"]):
        mine = [event for event in events if event.get("output_index") == index]
        assert {event.get("item_id", item["id"]) for event in mine} == {item["id"]}
        assert mine[0]["item"]["status"] == "in_progress"
        assert mine[-1]["item"] == item
        deltas = [event for event in mine if event["type"].endswith(".delta")]
        joined = "".join(event["delta"] for event in deltas)
        if item["type"] == "function_call":
            assert joined == mine[-2]["arguments"] == item["arguments"]
            continue
        part = item["content"][0]
        assert joined == mine[-3]["text"] == mine[-2]["part"]["text"] == part["text"]
        if item["type"] == "message":
            told = [entry for event in deltas for entry in event["logprobs"]]
            assert told == mine[-3]["logprobs"] == part["logprobs"] != []


def test_a_failure_is_an_event_and_nothing_is_kept() -> None:
    server = Server("Hello.", ends={2: ERROR})
    events = server.stream()
    failed = events[-1]
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"]["code"] == "server_error"
    assert "on fire" not in failed["response"]["error"]["message"]
    assert failed["response"]["output"][0]["status"] == "incomplete"
    assert failed["response"]["output"][0]["content"][0]["text"] == "He"


def test_a_refused_body_is_an_error_and_no_stream() -> None:
    answer = post(Server().app, PATH, {"input": "Hi", "stream": True, "n": 2})
    assert answer.status_code == 400


def test_the_official_client_streams() -> None:
    async def work() -> Any:
        async with openai_client(Server().app) as client:
            asked: dict[str, Any] = {"model": "fake/model", "input": "Hi", "tools": [TOOL]}
            kinds = [
                event.type async for event in await client.responses.create(**asked, stream=True)
            ]
            async with client.responses.stream(**asked) as stream:
                snapshots = [
                    event.snapshot
                    async for event in stream
                    if event.type == "response.output_text.delta"
                ]
                return kinds, snapshots, await stream.get_final_response()

    kinds, snapshots, response = run(work())
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert snapshots[-1] == response.output_text == "I look é."
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    assert response.usage.output_tokens_details.reasoning_tokens > 0


def test_the_official_client_reads_a_failure() -> None:
    async def work() -> Any:
        async with openai_client(Server(ends={2: ERROR}).app) as client:
            stream = await client.responses.create(model="fake/model", input="Hi", stream=True)
            return [event async for event in stream][-1]

    event = run(work())
    assert event.type == "response.failed"
    assert event.response.status == "failed"
