"""Responses that are kept, in memory and in a database, and what continues them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flaxen.job_routes.storage.tables import open_database
from flaxen.responses_routes import database as database_file
from flaxen.responses_routes.database import DatabaseStore
from flaxen.responses_routes.stored import MemoryStore, ResponseStore, StoredResponse
from tests.responses_routes.serving import PATH, TOOL, Server, read_events
from tests.server.clients import get, http_client, openai_client, post, run

RESULT = {"type": "function_call_output", "call_id": "c", "output": "sunny"}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_database(None, tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest) -> ResponseStore:
    if request.param == "memory":
        return MemoryStore()
    return DatabaseStore(request.getfixturevalue("database"))


def delete(server: Server, response_id: str) -> Any:
    async def ask() -> Any:
        async with http_client(server.app) as client:
            return await client.delete(f"{PATH}/{response_id}")

    return run(ask())


def test_a_response_is_retrieved_until_it_is_deleted(store: ResponseStore) -> None:
    server = Server(store=store)
    response = server.create(tools=[TOOL])
    path = f"{PATH}/{response['id']}"
    assert get(server.app, path).json() == response
    asked = "include[]=file_search_call.results&starting_after=0&include_obfuscation=true"
    assert get(server.app, f"{path}?{asked}").json() == response
    deleted = delete(server, response["id"])
    assert deleted.json() == {"id": response["id"], "object": "response", "deleted": True}
    for answer in (
        get(server.app, path),
        delete(server, response["id"]),
        get(server.app, f"{path}/input_items"),
        post(server.app, f"{path}/cancel"),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"]["param"] == "response_id"


def test_a_streamed_response_is_kept_too(store: ResponseStore) -> None:
    server = Server(store=store)
    response = server.stream()[-1]["response"]
    assert get(server.app, f"{PATH}/{response['id']}").json() == response


def test_a_response_without_store_is_not_kept() -> None:
    server = Server()
    for response in (server.create(store=False), server.stream(store=False)[-1]["response"]):
        assert response["store"] is False
        answer = get(server.app, f"{PATH}/{response['id']}")
        assert answer.status_code == 404
        expected = f"Response with id '{response['id']}' not found."  # as OpenAI's server has it
        assert answer.json()["error"]["message"] == expected


def test_a_conversation_goes_on(store: ResponseStore) -> None:
    server = Server(store=store)
    first = server.create(tools=[TOOL], instructions="Be short.")
    asked = {"input": [RESULT], "tools": [TOOL], "previous_response_id": first["id"]}
    second = server.create(**asked)
    assert second["previous_response_id"] == first["id"]
    prompt = bytes(server.engine.requests[-1].prompt_token_ids).decode()
    turn = "[assistant](They ask.)I look é.<f é>"
    assert prompt == f"f [user]Hi{turn}[tool]sunny"  # instructions are of one response
    last = {"previous_response_id": second["id"], "input": "And?", "instructions": "Be long."}
    assert server.prompt(**last) == f"[system]Be long.[user]Hi{turn}[tool]sunny{turn}[user]And?"
    delete(server, first["id"])
    error = server.error(**last)
    assert (error["param"], error["code"]) == (
        "previous_response_id", "previous_response_not_found",
    )  # fmt: skip
    assert first["id"] in error["message"]
    assert server.error(previous_response_id="\x00")["code"] == "previous_response_not_found"


def test_input_items_are_all_that_was_asked() -> None:
    server = Server("Yes.")
    first = server.create(input="One")
    texts = [{"role": "user", "content": text} for text in ("Two", "Three")]
    second = server.create(input=texts, previous_response_id=first["id"])

    def page(query: str = "") -> Any:
        return get(server.app, f"{PATH}/{second['id']}/input_items{query}").json()

    whole = page("?order=asc")
    shown = [item["content"][0]["text"] for item in whole["data"]]
    assert shown == ["One", "Yes.", "Two", "Three"]
    assert (whole["first_id"], whole["last_id"]) == (whole["data"][0]["id"], whole["data"][3]["id"])
    assert page()["data"] == whole["data"][::-1]
    part = page("?order=asc&limit=3")
    assert (part["data"], part["has_more"]) == (whole["data"][:3], True)
    rest = page(f"?order=asc&after={part['last_id']}")
    assert (rest["data"], rest["has_more"]) == (whole["data"][3:], False)
    nothing = page(f"?order=asc&after={whole['last_id']}")
    assert (nothing["data"], nothing["first_id"], nothing["last_id"]) == ([], "", "")
    for query, param in (("limit=-1", "limit"), ("limit=101", "limit"), ("limit=x", "limit"),
                         ("order=up", "order"), ("after=x", "after"), ("x=1", "x")):  # fmt: skip
        assert page(f"?{query}")["error"]["param"] == param

    async def work() -> list[str]:
        async with openai_client(server.app) as client:
            items = client.responses.input_items.list(second["id"], order="asc", limit=1)
            return [item.id async for item in items]

    assert run(work()) == [item["id"] for item in whole["data"]]


@pytest.mark.parametrize(
    ("query", "param"),
    [("stream=true", "stream"), ("stream=1", "stream"),
     ("stream=true&starting_after=-1", "starting_after"), ("include=x", "include"),
     ("stream=true&include_obfuscation=true", "include_obfuscation")],
)  # fmt: skip
def test_what_a_retrieval_refuses(query: str, param: str) -> None:
    server = Server("Yes.")
    answer = get(server.app, f"{PATH}/{server.create()['id']}?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_the_official_client_retrieves_and_deletes() -> None:
    async def work() -> Any:
        async with openai_client(Server().app) as client:
            made = await client.responses.create(model="fake/model", input="Hi")
            found = await client.responses.retrieve(
                made.id, include=["message.output_text.logprobs"]
            )
            await client.responses.delete(made.id)
            return made, found

    made, found = run(work())
    assert found == made


def kept(number: int, *, status: str = "completed", created_at: int = 0) -> StoredResponse:
    response = {"id": f"resp_{number:032x}", "status": status, "created_at": created_at}
    return StoredResponse(response=response, items=[{"text": "x" * 100}])


def test_memory_forgets_the_oldest() -> None:
    async def work() -> None:
        store = MemoryStore(max_chars=3 * len(kept(0).text()))
        for number in (0, 1, 2, 0, 3):  # 0 is put again, and so is younger than 1
            await store.put(kept(number))
        found = [await store.get(kept(number).id) for number in range(4)]
        assert found == [kept(0), None, kept(2), kept(3)]
        assert await store.delete(kept(0).id)
        assert not await store.delete(kept(0).id)

    asyncio.run(work())


def test_a_database_ends_what_a_killed_server_ran(database: sa.Engine) -> None:
    async def work() -> None:
        store = DatabaseStore(database)
        for number, status in enumerate(("queued", "in_progress", "completed")):
            await store.put(kept(number, status=status, created_at=2**33))
        again = DatabaseStore(database)
        found = [await again.get(kept(number).id) for number in range(3)]
        states = [(each.response["status"], "error" in each.response) for each in found if each]
        assert states == [("failed", True), ("failed", True), ("completed", False)]

    asyncio.run(work())


def test_a_database_forgets_what_is_old(
    database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        now = 1_800_000_000
        monkeypatch.setattr(database_file.time, "time", lambda: now)
        store = DatabaseStore(database)
        await store.put(kept(0, created_at=now))  # the first one cleans, and later ones in an hour
        await store.put(kept(1, created_at=now - 31 * 86_400))
        await store.put(kept(2, created_at=now - 29 * 86_400))
        again = DatabaseStore(database)
        await again.put(kept(3, created_at=now))
        found = [await again.get(kept(number).id) for number in range(4)]
        assert [each is not None for each in found] == [True, False, True, True]

    asyncio.run(work())


def test_a_stream_in_the_background_can_be_read_again() -> None:
    server = Server()
    events = server.stream(background=True, tools=[TOOL])
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert [event["response"]["status"] for event in events[:3]] == [
        "queued", "queued", "in_progress",
    ]  # fmt: skip
    path = f"{PATH}/{events[-1]['response']['id']}"
    again = get(server.app, f"{path}?stream=true")
    assert read_events(again.text) == events
    rest = get(server.app, f"{path}?stream=true&starting_after=5")
    assert read_events(rest.text) == events[6:]
    assert get(server.app, path).json() == events[-1]["response"]
