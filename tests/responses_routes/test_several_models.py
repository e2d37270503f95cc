"""Responses of a server of several models: kept together, and made by the model that is named."""

from __future__ import annotations

import asyncio
from typing import Any

from flaxen.model_pool.app import create_pool_app
from flaxen.responses_routes.responses import Responses
from flaxen.responses_routes.routes import model_free_routes, model_routes
from tests.model_pool.fake_models import Fakes
from tests.responses_routes.serving import PATH
from tests.server.clients import http_client, run


def test_a_response_in_the_background_keeps_its_model_and_is_found_without_one() -> None:
    responses = Responses()
    routes = model_routes(responses)
    fakes = Fakes(step_s=0.02, chats=True, more_routes=routes)
    app = create_pool_app(
        fakes.pool(fakes.model("a"), fakes.model("b"), budget_bytes=1),
        fakes.config,
        fakes.metrics,
        has_adapter_routes=False,
        more_routes=routes,
        own_routes=model_free_routes(responses),
    )

    async def work() -> None:
        async with http_client(app) as client:
            asked: dict[str, Any] = {"input": "Hi", "max_output_tokens": 10, "background": True}
            first = asyncio.create_task(client.post(PATH, json=asked | {"model": "a"}))
            while "a" not in fakes.engines or not fakes.engines["a"].open:
                await asyncio.sleep(0.005)
            # One model is in memory at a time: the other waits until the first is not needed.
            answer = (await client.post(PATH, json={"input": "Hi", "model": "b"} | asked)).json()
            assert fakes.log == ["+a", "-a", "+b"]
            made = (await first).json()
            assert (made["status"], made["model"], answer["model"]) == ("queued", "a", "b")
            ended = (await client.get(f"{PATH}/{made['id']}")).json()
            assert ended["usage"]["output_tokens"] == 10
            # "a" is loaded again for what continues its response, and for nothing else.
            asked = {"model": "a", "input": "Go on", "previous_response_id": made["id"]}
            await client.post(PATH, json=asked | {"max_output_tokens": 1})
            await client.delete(f"{PATH}/{made['id']}")
            assert fakes.log == ["+a", "-a", "+b", "-b", "+a"]

    run(work())
