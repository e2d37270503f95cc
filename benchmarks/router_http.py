"""What a router adds to a request's time: 64 clients of a model's server, directly and through it.

The server is a stand-in that answers each chat after 50 ms. Clients send one request after the
other, each with a pause, half of them with 300 words; they ask the server, a proxy and the router
in turn, so that the machine is the same for all, after a second each that does not count. Rules are
keywords alone. The proxy passes requests on as they are, by the same libraries (uvicorn with h11,
and the router's client). The difference of percentiles to the server is what each adds;
that between the router and the proxy is what deciding adds to any proxy in Python.

The first second of each turn is counted apart: a process that had nothing to do for 15 s wakes,
and the router and the proxy open connections to the server, which has closed those that were idle
for 5 s; clients have theirs open.

With --before the router of another checkout takes turns, too. Beside the times, the processor's
time of each process for a request is counted.

    python benchmarks/router_http.py [--before DIRECTORY] [--write]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from report import report

from flaxen.routing.http_client import HttpClient

CLIENTS, ROUNDS, ROUND_S, PAUSE_S, ANSWER_S = 64, 3, 5.0, 0.5, 0.05
RANKS = (50, 90, 99)
ROUTER = """
version: v0.3
providers: {defaults: {model: small}, models: [MODELS]}
routing:
  signals:
    keywords:
      - {name: proofs, operator: OR, method: regex, keywords: ['\\b(prove|show)\\b.{0,48}theorem']}
      - {name: sums, operator: OR, keywords: [sum, integral, derivative]}
  decisions:
    - {name: hard, priority: 2, rules: {type: keyword, name: proofs}, modelRefs: [{model: large}]}
    - {name: math, priority: 1, rules: {type: keyword, name: sums}, modelRefs: [{model: small}]}
"""
ANSWER = json.dumps({"choices": [{"message": {"role": "assistant", "content": "Yes. " * 50}}]})


async def answer_chat(scope: Any, receive: Any, send: Any) -> None:
    """Answers every request after a while."""
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(ANSWER_S)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER.encode()})


def serve(app: Any, port: int) -> None:
    """Runs an application, on the event loop that the router has."""
    uvicorn.run(
        app, port=port, loop="asyncio", log_level="critical", access_log=False, lifespan="off"
    )


class Proxy:
    """Passes each request on, and its answer back."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.client = HttpClient()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        headers = tuple((k.decode(), v.decode()) for k, v in scope["headers"] if k != b"host")
        url = self.url + scope["path"]
        answer = await self.client.send(scope["method"], url, headers, body)
        start = {"type": "http.response.start", "status": answer.status}
        await send({**start, "headers": [(k.encode(), v.encode()) for k, v in answer.headers]})
        async for chunk in answer.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def ask(port: int, first: list[float], times: list[float], ends_s: float) -> None:
    """One client: requests over one connection, with pauses; the first second counts apart."""
    steady_s = time.monotonic() + 1
    await asyncio.sleep(random.random() * PAUSE_S)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < ends_s:
        words = "of the sum that is asked " * random.choice((1, 60))
        body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": words}]})
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        begin_s = time.perf_counter()
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        headers = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert headers.startswith(b"http/1.1 200"), headers
        length = int(headers.split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        where = first if time.monotonic() < steady_s else times
        where.append((time.perf_counter() - begin_s) * 1e3)
        await asyncio.sleep(PAUSE_S * (0.5 + random.random()))
    writer.close()


def processor_us(pid: int) -> float:
    """The processor's time that a process's main thread took, in microseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e3


@dataclass
class Way:
    """A way to the server: its port, its process, and what was measured, in milliseconds."""

    port: int
    pid: int
    first: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    processor_us: float = 0.0

    async def ask(self, seconds: float) -> None:
        """All clients' turn."""
        begin_us, ends_s = processor_us(self.pid), time.monotonic() + seconds
        clients = (ask(self.port, self.first, self.others, ends_s) for _ in range(CLIENTS))
        await asyncio.gather(*clients)
        self.processor_us += processor_us(self.pid) - begin_us

    def figures(self) -> dict[str, float]:
        """What was measured."""
        num = len(self.first) + len(self.others)
        return {
            "requests": len(self.others),
            "processor_us": round(self.processor_us / num),
            **{f"p{rank}_ms": percentile(self.others, rank) for rank in RANKS},
            **{f"first_p{rank}_ms": percentile(self.first, rank) for rank in RANKS},
        }


async def measure(ways: list[Way]) -> None:
    """Asks all ways in turn."""
    for way in ways:  # modules are imported
        await way.ask(1)
        way.first, way.others, way.processor_us = [], [], 0.0
    for _ in range(ROUNDS):
        for way in ways:
            await way.ask(ROUND_S)


def percentile(times: list[float], percent: float) -> float:
    """A percentile by the nearest rank."""
    return round(sorted(times)[min(int(len(times) * percent / 100), len(times) - 1)], 2)


def start_router(path: Path, tree: Path, port: int) -> tuple[subprocess.Popen[str], float]:
    """Starts the router of a checkout; returns it, and the seconds until it was ready."""
    command = [sys.executable, "-m", "flaxen", "route", str(path), "--log-level", "warning"]
    begin_s = time.perf_counter()
    router = subprocess.Popen(
        [*command, "--port", str(port)], stderr=subprocess.PIPE, text=True, cwd=tree
    )
    assert router.stderr is not None
    next(line for line in router.stderr if "is served on" in line)
    return router, round(time.perf_counter() - begin_s, 2)


def main() -> None:
    """Measures, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--write", action="store_true", help="write the JSON under results/")
    options = parser.parse_args()
    ports = {"server": 18_741, "proxy": 18_743, "router": 18_742, "before": 18_744}
    apps = ((answer_chat, ports["server"]), (Proxy(ports["server"]), ports["proxy"]))
    servers = [multiprocessing.Process(target=serve, args=each, daemon=True) for each in apps]
    for server in servers:
        server.start()
    ways = {
        name: Way(ports[name], server.pid or 0)
        for name, server in zip(("server", "proxy"), servers, strict=True)
    }
    backend = f'backend_refs: [{{endpoint: "127.0.0.1:{ports["server"]}"}}]'
    models = ", ".join(f"{{name: {name}, {backend}}}" for name in ("small", "large"))
    trees = {"router": Path.cwd(), **({"before": options.before} if options.before else {})}
    routers, starts = [], dict[str, float]()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "router.yaml"
        path.write_text(ROUTER.replace("MODELS", models))
        try:
            for name, tree in trees.items():
                router, starts[name] = start_router(path, tree, ports[name])
                routers.append(router)
                ways[name] = Way(ports[name], router.pid)
            asyncio.run(measure([*ways.values()]))
        finally:
            for router in routers:
                router.terminate()
                router.wait()
            for server in servers:
                server.kill()
    found: dict[str, Any] = {name: way.figures() for name, way in ways.items()}
    for name, other in (
        *((name, "server") for name in ways if name != "server"),
        ("router", "proxy"),
    ):
        found[f"{name}_over_{other}"] = {
            each: round(value - found[other][each], 2)
            for each, value in found[name].items()
            if each.endswith("_ms")
        }
    found |= {"clients": CLIENTS, "start_s": starts["router"]}
    report("router-http", found, write=options.write)


if __name__ == "__main__":
    main()
