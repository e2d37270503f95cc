"""Models at URLs: what reaches them, streams as they come, and servers that are not there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from flaxen.router_config.models import BackendRef, ProviderModel
from flaxen.routing import http_client
from flaxen.routing.http_client import HttpClient
from flaxen.routing.http_upstream import HttpUpstream, backends_of
from flaxen.routing.upstream import Call, UpstreamError
from flaxen.server.run import listen
from tests.routing.fakes import make_proxy
from tests.server.clients import http_client as asking_of
from tests.server.clients import run

CALL = Call(path="/v1/chat/completions", headers=(("authorization", "theirs"),), body=b'{"a": 1}')


def upstream(client: object, *refs: BackendRef, **environment: str) -> HttpUpstream:
    model = ProviderModel(name="m", backend_refs=refs)
    return HttpUpstream(client, backends_of(model, environment))  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[str]:
    """Serves an application; yields HOST:PORT."""
    with listen("127.0.0.1", 0) as listener:
        config = uvicorn.Config(app, log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await task


def test_chunks_come_as_they_are_sent_and_leaving_ends_the_request() -> None:
    async def work() -> None:
        next_chunk, ended, seen = asyncio.Event(), asyncio.Event(), list[Request]()

        async def answer(http: Request) -> StreamingResponse:
            seen.append(http)
            assert await http.body() == CALL.body

            async def chunks() -> AsyncIterator[bytes]:
                try:
                    yield b"data: 1\n\n"
                    await next_chunk.wait()
                    yield b"data: 2\n\n"
                    await asyncio.sleep(30)
                finally:
                    ended.set()

            return StreamingResponse(chunks(), media_type="text/event-stream")

        app = Starlette(routes=[Route("/api/chat/completions", answer, methods=["POST"])])
        async with serving(app) as address, HttpClient() as client:
            gone = BackendRef(endpoint="127.0.0.1:1", weight=1000)
            ref = BackendRef(base_url=f"http://{address}/api", api_key_env="KEY", weight=1)
            got = await upstream(client, gone, ref, KEY="ours").send(CALL)
            assert (got.status, got.is_stream) == (200, True)
            assert await anext(got.chunks) == b"data: 1\n\n"
            next_chunk.set()
            assert await anext(got.chunks) == b"data: 2\n\n"
            assert seen[0].headers["authorization"] == "Bearer ours"
            await got.chunks.aclose()
            await asyncio.wait_for(ended.wait(), 5)

    run(work())


def test_a_connection_has_one_request_at_a_time_and_is_used_again() -> None:
    async def work() -> None:
        ports, seen = list[int](), list[Request]()

        async def answer(http: Request) -> StreamingResponse:
            assert http.client is not None
            ports.append(http.client.port)
            seen.append(http)

            async def chunks() -> AsyncIterator[bytes]:
                yield b"1"
                await asyncio.sleep(0.05)
                yield b"2"

            return StreamingResponse(chunks())

        app = Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])
        async with serving(app) as address, HttpClient() as client:
            model = upstream(client, BackendRef(endpoint=address))
            for _ in range(2):  # all of the second time's were opened by the first
                answers = [await model.send(CALL) for _ in range(3)]
                for each in answers:
                    assert await each.whole() == b"12"
            assert len(set(ports)) == 3
            assert sorted(ports[:3]) == sorted(ports[3:])
            left = await model.send(CALL)
            assert await anext(left.chunks) == b"1"
            await left.chunks.aclose()
            for _ in range(3):
                await (await model.send(CALL)).whole()
            assert ports[6] not in ports[7:]  # what was left is not used again
            assert {*seen[0].headers} == {"host", "authorization", "content-length"}

    run(work())


def test_no_server_is_there() -> None:
    async def work() -> None:
        async with HttpClient() as client:
            with pytest.raises(UpstreamError, match=r"http://127.0.0.1:1/v1/chat/comp.* reached"):
                await upstream(client, BackendRef(endpoint="127.0.0.1:1")).send(CALL)

    run(work())


def test_what_a_server_says_unasked_is_no_answer_and_a_broken_one_is_told() -> None:
    """Raw servers: one speaks while the connection is idle, another closes it within an answer."""
    answer, num = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num
        num += 1
        await reader.readuntil(CALL.body)
        writer.write(answer + (b"1" if num == 2 else b"12"))
        if num == 1:
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 408 Timeout\r\ncontent-length: 0\r\n\r\n")
            assert not await reader.read()  # the client closes the connection
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, HttpClient() as client:
            model = upstream(client, BackendRef(endpoint=address))
            assert await (await model.send(CALL)).whole() == b"12"
            await asyncio.sleep(0.1)
            broken = await model.send(CALL)
            assert await anext(broken.chunks) == b"1"
            with pytest.raises(UpstreamError, match=f"{address}/v1.* broke off: it closed the co"):
                await anext(broken.chunks)
            assert await (await model.send(CALL)).whole() == b"12"
            await asyncio.sleep(0.05)
            assert await (await model.send(CALL)).whole() == b"12"  # the last one was closed
            assert num == 4
            for value in ("1\r\nb: 2", "\u2713"):
                with pytest.raises(UpstreamError, match="a header is no line of Latin-1 text"):
                    await model.send(Call(path="/", headers=(("a", value),)))

    run(work())


def test_a_kept_connection_that_ends_as_it_is_used_is_replaced_once() -> None:
    requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n12"
        for number in range(2):  # the second one of a connection is read and not answered
            await reader.readuntil(CALL.body)
            requests += 1
            writer.write(b"" if number else answer)
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, HttpClient() as client:
            model = upstream(client, BackendRef(endpoint=address))
            assert await (await model.send(CALL)).whole() == b"12"
            assert await (await model.send(CALL)).whole() == b"12"
            assert requests == 3

    run(work())


def test_a_slow_reader_keeps_the_server_waiting() -> None:
    sent, size = 0, 1 << 20

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(CALL.body)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(32):
            writer.write(bytes(size))
            await writer.drain()
            sent += size
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, HttpClient() as client:
            answer = await upstream(client, BackendRef(endpoint=address)).send(CALL)
            first = await anext(answer.chunks)
            await asyncio.sleep(0.2)
            assert sent < 32 * size
            assert len(first) + len(await answer.whole()) == sent == 32 * size

    run(work())


@pytest.mark.parametrize(
    ("ref", "url"),
    [
        (BackendRef(endpoint="h:1"), "http://h:1/v1/chat/completions"),
        (BackendRef(endpoint="h:1", protocol="https"), "https://h:1/v1/chat/completions"),
        (BackendRef(base_url="https://h/v1/"), "https://h/v1/chat/completions"),
        (BackendRef(base_url="https://h", chat_path="/chat"), "https://h/chat"),
        (BackendRef(base_url="https://h/o/?v=1"), "https://h/o/chat/completions?v=1"),
    ],
)
def test_the_url_of_a_chat(ref: BackendRef, url: str) -> None:
    (backend,) = backends_of(ProviderModel(name="m", backend_refs=(ref,)), {})
    assert backend.url(CALL.path) == url


def test_headers_that_a_connection_names_go_no_further() -> None:
    seen = list[Request]()

    async def answer(http: Request) -> Response:
        seen.append(http)
        return Response("1", headers={"connection": "X-Hop, close", "x-hop": "1", "x-end": "2"})

    async def work() -> None:
        app = Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])
        async with serving(app) as address:
            proxy = make_proxy()
            async with HttpClient() as client, asking_of(proxy.app) as asking:
                target = proxy.service.router.targets["small"]
                model = upstream(client, BackendRef(endpoint=address))
                proxy.service.router.targets["small"] = replace(target, upstream=model)
                headers = {"connection": "keep-alive, X-Own", "x-own": "1", "x-far": "2"}
                body = {"model": "small", "messages": []}
                got = await asking.post(CALL.path, json=body, headers=headers)
                assert (got.text, got.headers["x-end"]) == ("1", "2")
                assert "x-hop" not in got.headers
                assert seen[0].headers["x-far"] == "2"
                assert "x-own" not in seen[0].headers

    run(work())


def test_an_idle_connection_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_KEPT_S", 0.1)
    monkeypatch.setattr(http_client, "_TIDY_S", 0.06)

    async def work() -> None:
        ended = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(CALL.body)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n12")
            with contextlib.suppress(ConnectionResetError):
                assert not await reader.read()
            writer.close()
            ended.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, HttpClient() as client:
            assert await (await upstream(client, BackendRef(endpoint=address)).send(CALL)).whole()
            await asyncio.wait_for(ended.wait(), 5)  # and nobody asks again
            assert client._timer is None

    run(work())
