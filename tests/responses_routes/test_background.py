"""Responses in the background of a real server: nobody waits for them, and they can be ended."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.responses_routes.serving import Server, running
from tests.server.clients import run

LONG = "abcdefgh" * 400
ASKED: dict[str, Any] = {"model": "fake/model", "input": "Hi", "background": True}


async def until_ended(client: Any, response_id: str) -> Any:
    while True:
        response = await client.responses.retrieve(response_id)
        if response.status not in ("queued", "in_progress"):
            return response
        await asyncio.sleep(0.01)


def test_a_response_is_made_after_its_answer() -> None:
    async def work() -> None:
        server = Server("Hello.", step_s=0.02)
        async with running(server) as client:
            response = await client.responses.create(**ASKED)
            assert (response.status, response.output, response.usage) == ("queued", [], None)
            with pytest.raises(openai.BadRequestError, match="has not ended yet"):
                await client.responses.create(**ASKED, previous_response_id=response.id)
            response = await until_ended(client, response.id)
            assert (response.status, response.output_text) == ("completed", "Hello.")
            assert response.background
            ended = await client.responses.cancel(response.id)  # too late: it is as it was
            assert ended == response

    run(work())


def test_a_response_is_cancelled_and_its_events_end() -> None:
    async def work() -> None:
        server = Server(LONG, step_s=0.005)
        async with running(server) as client:
            response = await client.responses.create(**ASKED)
            while not (await client.responses.retrieve(response.id)).output:
                await asyncio.sleep(0.01)
            stream = await client.responses.retrieve(response.id, stream=True)
            events: list[Any] = []

            async def read() -> None:
                events.extend([event async for event in stream])

            reading = asyncio.create_task(read())
            cancelled = await client.responses.cancel(response.id)
            await reading
            assert cancelled.status == events[-1].response.status == "cancelled"
            assert LONG.startswith(cancelled.output_text)
            assert 0 < len(cancelled.output_text) < len(LONG)
            assert cancelled.output[0].status == "incomplete"
            assert server.engine.open == set()
            assert await client.responses.retrieve(response.id) == cancelled
            again = await client.responses.create(
                model="fake/model", input="Go on", previous_response_id=response.id,
                max_output_tokens=1,
            )  # fmt: skip
            assert again.status == "incomplete"

    run(work())


def test_a_client_that_leaves_the_stream_leaves_the_response_running() -> None:
    async def work() -> None:
        server = Server("Hello.", step_s=0.02)
        async with running(server) as client:
            stream = await client.responses.create(**ASKED, stream=True)
            async for event in stream:
                if event.type == "response.queued":
                    break
            await stream.close()
            response = await until_ended(client, event.response.id)
            assert (response.status, response.output_text) == ("completed", "Hello.")

    run(work())


def test_one_that_is_no_background_response_ends_with_its_client_and_is_not_cancelled() -> None:
    async def work() -> None:
        server = Server(LONG, step_s=0.005)
        async with running(server) as client:
            asked = {**ASKED, "background": False}
            stream = await client.responses.create(**asked, stream=True)
            async for event in stream:
                if event.type == "response.output_text.delta":
                    break
            await stream.close()
            while server.engine.open:
                await asyncio.sleep(0.01)
            done = await client.responses.create(**asked, max_output_tokens=1)
            with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous"):
                await client.responses.cancel(done.id)

    run(work())


def test_one_that_runs_is_deleted_after_its_end() -> None:
    async def work() -> None:
        server = Server(LONG, step_s=0.005)
        async with running(server) as client:
            response = await client.responses.create(**ASKED)
            await client.responses.delete(response.id)
            assert server.engine.open == set()
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(response.id)

    run(work())


def test_the_end_of_the_server_ends_it() -> None:
    async def work() -> Server:
        server = Server(LONG, step_s=0.005)
        async with running(server) as client:
            await client.responses.create(**ASKED)
        return server

    server = run(work())
    assert server.engine.open == set()
