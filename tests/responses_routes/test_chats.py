"""Chats with store=true are kept as they were answered, and listed in pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from flaxen.job_routes.storage.tables import open_database
from flaxen.responses_routes.database import DatabaseStore
from flaxen.responses_routes.responses import Responses
from flaxen.responses_routes.routes import all_routes
from flaxen.responses_routes.stored import MemoryStore, ResponseStore
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from tests.responses_routes.serving import SAYS, TEMPLATE
from tests.server.clients import events, get, openai_client, post, run
from tests.server.fakes import END, FakeEngine, byte_tokenizer

PATH = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "Hi"}], "store": True}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ResponseStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    database = open_database(None, tmp_path)
    yield DatabaseStore(database, "chatcmpl-")
    database.dispose()


def serving(store: ResponseStore, says: str = SAYS) -> Any:
    engine = FakeEngine(says=lambda request, index: [*says.encode(), END])
    routes = all_routes(Responses(chats=store))
    return create_app(engine, byte_tokenizer(TEMPLATE), ServerConfig(), more_routes=routes)


def test_a_chat_is_kept_as_it_was_answered_until_it_is_deleted(store: ResponseStore) -> None:
    async def use() -> None:
        async with openai_client(serving(store)) as client:
            chats, asked = client.chat.completions, {"tools": TOOLS, "n": 2, "logprobs": True}
            first = await chats.create(model="fake/model", metadata={"a": "b"}, **HI, **asked)
            assert first.choices[1].message.tool_calls[0].function.arguments == '{"a": "é"}'
            kept = await chats.retrieve(first.id)
            assert kept.model_dump() == {**first.model_dump(), "metadata": {"a": "b"}}
            changed = await chats.update(first.id, metadata={"c": "d"})
            assert changed == await chats.retrieve(first.id)
            assert changed.model_dump() == {**first.model_dump(), "metadata": {"c": "d"}}
            [message] = (await chats.messages.list(first.id)).data
            assert (message.id, message.role, message.content) == (f"{first.id}-0", "user", "Hi")
            gone = await chats.delete(first.id)
            assert (gone.id, gone.object, gone.deleted) == (
                first.id, "chat.completion.deleted", True,
            )  # fmt: skip
            for lost in (chats.retrieve, chats.delete, chats.messages.list):
                with pytest.raises(openai.NotFoundError, match="there is no kept chat"):
                    await lost(first.id)

    run(use())


def test_a_streamed_chat_is_kept_as_if_it_had_come_at_once(store: ResponseStore) -> None:
    app = serving(store)
    asked = {**HI, "tools": TOOLS, "n": 2, "logprobs": True, "return_token_ids": True}
    whole = post(app, PATH, asked).json()
    streamed = events(post(app, PATH, {**asked, "stream": True}))
    kept = get(app, f"{PATH}/{streamed[0]['id']}").json()
    told = [
        call["id"]
        for chunk in streamed[:-1]
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", ())
        if "id" in call
    ]
    calls = [choice["message"]["tool_calls"][0] for choice in kept["choices"]]
    assert [call["id"] for call in calls] == told
    for call, other in zip(calls, whole["choices"], strict=True):
        call["id"] = other["message"]["tool_calls"][0]["id"]
    same = {name: whole[name] for name in ("id", "created")}
    assert kept | same == {**whole, "metadata": {}}


def test_only_chats_that_ask_for_it_are_kept() -> None:
    app = serving(MemoryStore())
    for body in ({}, {"store": False}, {"store": None, "metadata": {"a": "b"}}):
        assert post(app, PATH, {"messages": HI["messages"], **body}).status_code == 200
    assert get(app, PATH).json() == {
        "object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False,
    }  # fmt: skip


def test_chats_are_listed_in_pages(store: ResponseStore) -> None:
    async def use() -> None:
        async with openai_client(serving(store, "Yes.")) as client:
            chats = client.chat.completions
            made = [
                await chats.create(model="fake/model", metadata={"even": str(i % 2 == 0)}, **HI)
                for i in range(5)
            ]
            ids = [each.id for each in sorted(made, key=lambda each: (each.created, each.id))]
            assert [each.id async for each in chats.list(limit=2)] == ids
            assert [each.id async for each in chats.list(limit=2, order="desc")] == ids[::-1]
            even = [made[i].id for i in (0, 2, 4)]
            found = [each.id async for each in chats.list(metadata={"even": "True"}, limit=1)]
            assert sorted(found) == sorted(even)
            assert (await chats.list(model="other")).data == []
            empty = await chats.list(limit=0)
            assert (empty.data, empty.has_more) == ([], True)
            with pytest.raises(openai.NotFoundError, match="not the id of anything in this list"):
                await chats.list(after="chatcmpl-no")

    run(use())


@pytest.mark.parametrize(
    ("body", "param", "reason"),
    [
        ({"metadata": {"a": 1}}, "metadata", "must map keys"),
        ({"metadata": {"a" * 65: ""}}, "metadata", "must map keys"),
        ({"request_id": "a" * 60}, "store", "at most 64 characters"),
    ],
)
def test_what_can_not_be_kept_is_refused(body: dict[str, Any], param: str, reason: str) -> None:
    answer = post(serving(MemoryStore()), PATH, {**HI, **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert reason in answer.json()["error"]["message"]


def test_stores_of_one_database_do_not_mix(tmp_path: Path) -> None:
    database = open_database(None, tmp_path)
    chats, responses = DatabaseStore(database, "chatcmpl-"), DatabaseStore(database)
    app = serving(chats)
    chat = post(app, PATH, HI).json()
    assert run(responses.get(chat["id"])) is None
    assert get(app, f"/v1/responses/{chat['id']}").status_code == 404
    database.dispose()
