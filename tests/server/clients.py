"""Ways to drive an application: in memory, with plain HTTP or with the official client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import httpx
import openai

from flaxen.protocol import EngineClient
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from tests.server.fakes import FakeEngine, byte_tokenizer

_T = TypeVar("_T")
_TOKENIZER = byte_tokenizer()


def make_app(
    engine: EngineClient | None = None, *, template: str | None = None, **config: Any
) -> Any:
    tokenizer = _TOKENIZER if template is None else byte_tokenizer(template)
    return create_app(engine or FakeEngine(), tokenizer, ServerConfig(**config))


def http_client(app: Any, **headers: str) -> httpx.AsyncClient:
    # The guard answers for every error: one that leaves the application fails the test.
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://flaxen", headers=headers
    )


@contextlib.asynccontextmanager
async def openai_client(app: Any) -> AsyncIterator[Any]:
    """The official client; Any, since bodies here are dicts and not its typed arguments."""
    client: Any
    async with http_client(app) as client:
        yield openai.AsyncOpenAI(
            base_url="http://flaxen/v1", api_key="any", http_client=client, max_retries=0
        )


def post(app: Any, path: str, body: Any = None, **request: Any) -> httpx.Response:
    """One request; a body that is bytes goes as it is, as JSON."""
    if isinstance(body, bytes):
        request["content"] = body
        request.setdefault("headers", {"content-type": "application/json"})
    elif body is not None:
        request["json"] = body

    async def send() -> httpx.Response:
        async with http_client(app) as client:
            return await client.post(path, **request)

    return asyncio.run(send())


def get(app: Any, path: str, **headers: str) -> httpx.Response:
    async def send() -> httpx.Response:
        async with http_client(app, **headers) as client:
            return await client.get(path)

    return asyncio.run(send())


def run(work: Coroutine[Any, Any, _T], *, seconds: float = 30) -> _T:
    """Runs work to its end; it fails if it takes longer."""
    return asyncio.run(asyncio.wait_for(work, seconds))


def events(response: httpx.Response) -> list[Any]:
    """The data of an event stream's events, parsed; "[DONE]" as it is."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [
        data if data == "[DONE]" else json.loads(data)
        for data in (line.removeprefix("data: ") for line in lines)
    ]
