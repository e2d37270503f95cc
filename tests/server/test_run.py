"""A real server: clients that leave, signals, and addresses that can't be listened on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flaxen.engine.async_engine import AsyncEngine
from flaxen.server.run import listen, serve, url_of
from tests.engine.fakes import FakeExecutor, FaultyExecutor, fake_engine
from tests.server.clients import make_app, run
from tests.server.fakes import FakeEngine

ROOT = Path(__file__).parents[2]
LONG = {"max_tokens": 3000, "stream": True}  # far longer than any test waits
HELLO = [{"role": "user", "content": "Hi"}]


@contextlib.asynccontextmanager
async def server(engine: FakeEngine, uds: str | None = None, **config: Any) -> AsyncIterator[str]:
    """Serves in this loop until the block ends, and then stops by a signal as users do."""
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    with listen("127.0.0.1", 0, uds) as listener:
        serving = asyncio.create_task(
            serve(
                make_app(engine, **config),
                engine,
                listener,
                drain_s=0.0,
                on_ready=ready.set_result,
            )
        )
        yield await ready
        os.kill(os.getpid(), signal.SIGTERM)
        assert await serving == 0


async def until(condition: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("path", "body", "num_requests"),
    [
        ("/v1/completions", {"prompt": "a", **LONG}, 1),
        ("/v1/completions", {"prompt": "a", **LONG, "stream": False}, 1),
        ("/v1/completions", {"prompt": ["a", "b", "c"], "n": 2, **LONG}, 3),
        ("/v1/completions", {"prompt": ["a", "b"], **LONG, "stream": False}, 2),
        ("/v1/chat/completions", {"messages": HELLO, **LONG}, 1),
        ("/v1/chat/completions", {"messages": HELLO, **LONG, "stream": False}, 1),
    ],
)
def test_a_client_that_leaves_frees_the_engine(
    path: str, body: dict[str, Any], num_requests: int
) -> None:
    async def work() -> None:
        engine = FakeEngine(step_s=0.005)
        async with server(engine) as url, httpx.AsyncClient(base_url=url) as client:
            port = int(url.rsplit(":", 1)[1])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            data = json.dumps(body).encode()
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(data)}\r\n\r\n".encode()
                + data
            )
            if body["stream"]:
                await reader.readuntil(b"data: ")
            await until(lambda: len(engine.open) == num_requests)
            writer.close()
            await until(lambda: not engine.open)
            await until(lambda: len(engine.ended) == num_requests)
            # The server goes on, and counts what was cut short.
            assert (await client.get("/health")).status_code == 200
            metrics = (await client.get("/metrics")).text
            count = num_requests * body.get("n", 1)
            assert f'finished_reason="abort",model_name="fake/model"}} {count}.0' in metrics

    run(work())


def test_many_streams_of_which_half_leave() -> None:
    async def read(client: httpx.AsyncClient, leaves: bool) -> str:
        text = ""
        body = {"prompt": "a", "max_tokens": 1500 if leaves else 20, "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    text += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
                if leaves and len(text) == 3:
                    break
        return text

    async def work() -> None:
        engine = FakeEngine(step_s=0.005)
        async with server(engine) as url, httpx.AsyncClient(base_url=url) as client:
            texts = await asyncio.gather(*(read(client, i % 2 == 0) for i in range(30)))
            assert texts == ["abc", "abcdefghijklmnopqrst"] * 15
            await until(lambda: not engine.open)
            assert len(engine.ended) == 30

    run(work())


def test_a_body_too_large_is_answered_and_the_connection_kept() -> None:
    async def work() -> None:
        async with (
            server(FakeEngine(), max_body_bytes=1000) as url,
            httpx.AsyncClient(base_url=url) as client,
        ):
            for _ in range(2):
                answer = await client.post("/v1/completions", json={"prompt": "x" * 500_000})
                assert answer.status_code == 413
            assert (await client.post("/tokenize", json={"prompt": "a"})).status_code == 200

    run(work())


def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "flaxen.sock")

    async def work() -> None:
        async with server(FakeEngine(), uds=path) as url:
            assert url == f"unix:{path}"
            with pytest.raises(OSError, match=r"the Unix socket .* already in use"):
                listen("", 0, path)
            transport = httpx.AsyncHTTPTransport(uds=path)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                assert (await client.get("/health")).json() == {"status": "ok"}

    run(work())
    run(work())  # the path that the first one left behind is taken over


def test_a_file_in_the_sockets_place_stays(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(OSError, match="Choose a path that does not exist"):
        listen("", 0, str(path))
    assert path.read_text() == "mine"


def test_an_address_that_is_taken() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert url_of(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(OSError, match=rf"can't listen on 127.0.0.1:{port}: .*another --port"):
            listen("127.0.0.1", port)
    with pytest.raises(OSError, match=r"can't listen on no-such-host.invalid:1"):
        listen("no-such-host.invalid", 1)


def test_a_server_whose_engine_broke_ends_with_1(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        faulty = FaultyExecutor(FakeExecutor(), lambda call, _: call in ("dispatch", "reset"))
        engine = AsyncEngine(fake_engine(executor=faulty))
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        with listen("127.0.0.1", 0) as listener:
            serving = asyncio.create_task(
                serve(make_app(engine), engine, listener, drain_s=60, on_ready=ready.set_result)
            )
            async with httpx.AsyncClient(base_url=await ready) as client:
                answer = await client.post("/v1/completions", json={"prompt": "a"})
                assert answer.status_code == 503
            assert await asyncio.wait_for(serving, 10) == 1

    run(work())
    assert "the server ends: the engine broke: RuntimeError('the device is on fire')" in caplog.text


def test_an_engine_that_only_refuses_does_not_end_the_server() -> None:
    async def work() -> None:
        engine = FakeEngine()
        async with server(engine) as url, httpx.AsyncClient(base_url=url) as client:
            engine.closed = True
            await asyncio.sleep(1.5)  # longer than from one look at the engine to the next
            assert (await client.get("/health")).status_code == 503

    run(work())


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_ipv6() -> None:
    try:
        listener = listen("::1", 0)
    except OSError as error:
        pytest.skip(str(error))
    with listener:
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"


class Process:
    """A server in a process of its own, and one stream that is open on it."""

    def __init__(self, step_s: float, drain_s: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.serve_fake", str(step_s), str(drain_s)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.client = httpx.Client(base_url=self.process.stdout.readline().strip(), timeout=20)

    def end(self, seconds: float = 10.0) -> tuple[int, str]:
        """Waits for its end. Returns the exit code and what it printed last."""
        assert self.process.stdout is not None
        return self.process.wait(seconds), self.process.stdout.read()

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def process(step_s: float, drain_s: float) -> Iterator[Process]:
    started = Process(step_s, drain_s)
    try:
        yield started
    finally:
        started.close()


@contextlib.contextmanager
def stream(client: httpx.Client, max_tokens: int) -> Iterator[Iterator[str]]:
    """Opens a stream; yields its events from the second on."""
    body = {"prompt": "a", "max_tokens": max_tokens, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as response:
        lines = (line.removeprefix("data: ") for line in response.iter_lines() if line)
        assert "choices" in next(lines)
        yield lines


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_open_streams_finish(number: signal.Signals) -> None:
    with process(0.05, 20.0) as started, stream(started.client, 30) as lines:
        started.process.send_signal(number)
        deadline = time.monotonic() + 5
        # A connection of its own each time: new ones must be accepted too.
        while httpx.get(started.client.base_url.join("/health")).status_code == 200:
            assert time.monotonic() < deadline
        url = started.client.base_url.join("/v1/completions")
        refused = httpx.post(url, json={"prompt": "a"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "unavailable"
        *_, last, done = lines
        assert json.loads(last)["choices"][0]["finish_reason"] == "length"
        assert done == "[DONE]"
        assert started.end() == (0, "stopped in order\n")


@pytest.mark.slow
def test_streams_that_outlast_the_drain_are_aborted() -> None:
    with process(0.05, 0.3) as started, stream(started.client, 3000) as lines:
        started.process.send_signal(signal.SIGTERM)
        *_, last, done = lines
        assert json.loads(last)["error"]["code"] == "aborted"
        assert done == "[DONE]"
        assert started.end() == (0, "stopped in order\n")


@pytest.mark.slow
def test_a_second_signal_ends_at_once() -> None:
    with process(0.05, 60.0) as started, stream(started.client, 3000):
        started.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert started.process.poll() is None
        started.process.send_signal(signal.SIGTERM)
        assert started.end(2.0) == (128 + signal.SIGTERM, "")
