"""A thousand clients of the router for ten minutes, while a backend is killed twice: every request
is accounted for.

`flaxen route` stands before two backends, small processes of this file that answer chats, half of
them as streams, and write the id of each request to a file when they send its first byte and its
last. Clients send ids too, think between requests, and say what became of each. One backend is
killed (SIGKILL) at a quarter and at three fifths of the time, and started again some seconds
later. Then clients, backends and the router's metrics must agree. It needs no quiet machine, and
counts only the time in which its processes run: others may stop them for a measurement.

    python benchmarks/router_endurance.py [--clients 1000] [--seconds 600] [--write]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from report import report

PORTS, ROUTER_PORT, NUM_EVENTS = (18_751, 18_752), 18_753, 5
REQUESTS_S, HUNG_S, DOWN_S = 60.0, 60.0, 0.02  # the last is a share of the time
TICK_S = 0.25
KILLS = (0.25, 0.6)
NOT_TAKEN = "not taken: the idle connection was being closed"
ROUTER = """
version: v0.3
listeners: [{name: all, address: 127.0.0.1, port: 18753, timeout: 7200s}]
providers:
  defaults: {model: left}
  models:
    - {name: left, backend_refs: [{endpoint: "127.0.0.1:18751"}]}
    - {name: right, backend_refs: [{endpoint: "127.0.0.1:18752"}]}
global: {router: {fallback: {total_timeout: 7200s, per_attempt_timeout: 7200s}}}
routing:
  signals: {keywords: [{name: ids, operator: OR, keywords: [request]}]}
  decisions:
    - name: both
      rules: {type: keyword, name: ids}
      modelRefs: [{model: left, weight: 1}, {model: right, weight: 1}]
      algorithm: {type: weighted}
"""


class Backend:
    """Answers chats with their ids, at once in pieces or after a while as a whole."""

    def __init__(self, log: str) -> None:
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, what: str, name: str) -> None:
        """Writes a line, which outlives this process."""
        os.write(self.log, f"{what} {name}\n".encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        name, is_stream = dict(scope["headers"])[b"x-request-id"].decode(), b'"stream"' in body
        kind = b"text/event-stream" if is_stream else b"application/json"
        await asyncio.sleep(0.05)
        self.note("begun", name)
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
        )
        for n in range(NUM_EVENTS if is_stream else 1):
            event = json.dumps({"id": name, "n": n}).encode()
            data = b"data: %b\n\n" % event if is_stream else event
            await send({"type": "http.response.body", "body": data, "more_body": is_stream})
            await asyncio.sleep(0.1 if is_stream else 0)
        if is_stream:
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        self.note("ended", name)


class Clock:
    """The seconds in which this process ran: not those in which it was stopped."""

    now_s = 0.0

    async def run(self) -> None:
        """Counts."""
        while True:
            begin_s = time.monotonic()
            await asyncio.sleep(TICK_S)
            self.now_s += min(time.monotonic() - begin_s, 4 * TICK_S)

    async def until(self, then_s: float) -> None:
        """Waits."""
        while self.now_s < then_s:
            await asyncio.sleep(TICK_S)


class Client:
    """One client: requests one after the other, over one connection while that is open."""

    def __init__(self, number: int, clock: Clock, pause_s: float, seen: Counter[str]) -> None:
        self.number, self.clock, self.pause_s, self.seen = number, clock, pause_s, seen
        self.outcomes: dict[str, str] = {}
        self.times: list[float] = []
        self.connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, ends_s: float) -> None:
        """Asks until the time is over."""
        await asyncio.sleep(random.random() * self.pause_s)
        while self.clock.now_s < ends_s:
            name = f"c{self.number}-{len(self.outcomes)}"
            begin_s, outcome = self.clock.now_s, "hung"
            asking = asyncio.create_task(self.ask(name))
            while not asking.done() and self.clock.now_s < begin_s + HUNG_S:
                await asyncio.wait((asking,), timeout=5)
            if asking.done():
                error = asking.exception()
                outcome = f"closed: {error!r}" if error else asking.result()
            asking.cancel()
            self.outcomes[name] = outcome
            self.seen[outcome] += 1
            self.times.append(self.clock.now_s - begin_s)
            if outcome not in ("whole", "stream"):
                self.close()
            pause_s = self.pause_s * (0.5 + random.random())
            if self.clock.now_s + pause_s > ends_s:
                break
            await asyncio.sleep(pause_s)
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        if self.connection is not None:
            self.connection[1].close()
            self.connection = None

    async def ask(self, name: str) -> str:
        """Sends one request; says what came of it."""
        is_stream = random.random() < 0.5
        chat = {"model": "auto", "messages": [{"role": "user", "content": f"request {name}"}]}
        body = json.dumps({**chat, "stream": True} if is_stream else chat)
        if self.connection is not None and self.connection[0].at_eof():
            self.close()  # the router closes what was idle for 75 s
        is_used = self.connection is not None
        if self.connection is None:
            self.connection = await asyncio.open_connection("127.0.0.1", ROUTER_PORT)
        reader, writer = self.connection
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-request-id: {name}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        try:
            headers = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        except (OSError, EOFError) as error:
            return NOT_TAKEN if is_used else f"closed: {type(error).__name__}"
        answer = await read_body(reader, headers)
        if (status := headers.split()[1]) != "200":
            return f"error {status}"
        if not is_stream:
            return "whole" if json.loads(answer) == {"id": name, "n": 0} else "wrong"
        events = [line[6:] for line in answer.decode().split("\n\n") if line.startswith("data: ")]
        expected = [json.dumps({"id": name, "n": n}) for n in range(NUM_EVENTS)]
        if events == [*expected, "[DONE]"]:
            return "stream"
        if '"error"' in events[-1] and events[:-1] == expected[: len(events) - 1]:
            return "error event"
        return "wrong"


async def read_body(reader: asyncio.StreamReader, headers: str) -> bytes:
    """The whole body behind a head."""
    if found := re.search(r"content-length: (\d+)", headers):
        return await reader.readexactly(int(found[1]))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


def start(*arguments: str) -> subprocess.Popen[str]:
    """Starts a process of Python, and waits until it says that it serves."""
    process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    next(line for line in process.stderr if "served" in line)
    return process


def start_backend(side: int, directory: str) -> subprocess.Popen[str]:
    """Starts the left backend (0) or the right one (1)."""
    return start(__file__, "--backend", str(PORTS[side]), "--log", f"{directory}/{side}.log")


def of_process(pid: int) -> dict[str, int]:
    """The memory and the open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found is not None
    return {"rss_kb": int(found[1]), "files": len(os.listdir(f"/proc/{pid}/fd"))}


def metrics() -> Counter[str]:
    """The router's counters, summed over their labels but for those of errors."""
    counters: Counter[str] = Counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{ROUTER_PORT}/metrics", timeout=30) as page:
        for line in page.read().decode().splitlines():
            if found := re.match(r"llm_(\w+)_total(\{.*\})? (\S+)", line):
                counters[found[1]] += int(float(found[3]))
    return counters


async def measure(num_clients: int, seconds: float, directory: str, router: int) -> dict[str, Any]:
    """Runs the clients, kills and starts the left backend, and says what happened."""
    backends = [start_backend(side, directory) for side in (0, 1)]
    begin_s, clock, seen, kills = time.monotonic(), Clock(), Counter[str](), []
    pause_s = max(num_clients / REQUESTS_S, 0.5)
    clients = [Client(n, clock, pause_s, seen) for n in range(num_clients)]
    memory, ticking = {"start": of_process(router)}, asyncio.create_task(clock.run())

    async def watch() -> None:
        for share in (*KILLS, 0.95):
            await clock.until(share * seconds)
            memory[f"at {share:g} of the time"] = of_process(router)
            print(share, dict(seen), flush=True)
            if share not in KILLS:
                continue
            backends[0].kill()
            backends[0].wait()
            kills.append({"at_s": round(clock.now_s, 1), "before": dict(seen)})
            await clock.until(clock.now_s + DOWN_S * seconds)
            backends[0] = await asyncio.to_thread(start_backend, 0, directory)
            kills[-1]["up_again_s"] = round(clock.now_s, 1)

    await asyncio.gather(watch(), *(client.run(seconds) for client in clients))
    wall_s = time.monotonic() - begin_s
    await asyncio.sleep(6)  # backends close what was idle for 5 s
    counted = metrics()
    await Client(num_clients, clock, 0.1, seen).run(clock.now_s + 0.3)  # the router sees that
    await asyncio.sleep(1)
    memory["after"] = of_process(router)
    ticking.cancel()
    for backend in backends:
        backend.kill()
        backend.wait()
    outcomes = {k: v for client in clients for k, v in client.outcomes.items()}
    return {
        "clients": num_clients,
        "seconds": seconds,
        "stopped_s": round(wall_s - seconds, 1),
        "requests": len(outcomes),
        "outcomes": dict(Counter(outcomes.values())),
        "kills": kills,
        **agree(outcomes, directory, counted),
        "router": memory,
        "longest_s": round(max(each for client in clients for each in client.times), 2),
    }


def agree(outcomes: dict[str, str], directory: str, counted: Counter[str]) -> dict[str, Any]:
    """Compares what clients, backends and the router say of the requests."""
    logged: dict[str, list[str]] = defaultdict(list)
    for path in Path(directory).glob("*.log"):
        for line in path.read_text().splitlines():
            what, name = line.split()
            if name in outcomes:
                logged[name].append(what)
    twice = [name for name, lines in logged.items() if lines.count("begun") > 1]
    answered = [name for name, outcome in outcomes.items() if outcome in ("whole", "stream")]
    num_taken = sum(outcome != NOT_TAKEN for outcome in outcomes.values())
    # Errors that the router told before an answer began.
    num_errors = sum(outcome.startswith("error ") and outcome != "error event"
                     for outcome in outcomes.values())  # fmt: skip
    return {
        "begun_twice": len(twice),
        "ended_twice": sum(lines.count("ended") > 1 for lines in logged.values()),
        "answered_but_not_begun_once": sum(logged[name].count("begun") != 1 for name in answered),
        "ended_but_not_answered": sum(
            "ended" in lines and outcomes[name] not in ("whole", "stream")
            for name, lines in logged.items()
        ),
        "metrics": dict(counted),
        "decided_minus_requests": counted["decision_match"] - num_taken,
        "selected_plus_errors_minus_requests": counted["model_selection"] + num_errors - num_taken,
    }


def main() -> None:
    """Runs it, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--write", action="store_true", help="write the JSON under results/")
    parser.add_argument("--backend", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--log", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.backend is not None:
        serve(options.backend, options.log)
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "router.yaml"
        path.write_text(ROUTER)
        port = ["--port", str(ROUTER_PORT), "--log-level", "error"]
        router = start("-m", "flaxen", "route", str(path), *port)
        try:
            found = asyncio.run(measure(options.clients, options.seconds, directory, router.pid))
        finally:
            router.terminate()
            code = router.wait()
    report("router-endurance", {**found, "exit_code": code}, write=options.write)
    bad = ("begun_twice", "ended_twice", "answered_but_not_begun_once", "ended_but_not_answered",
           "decided_minus_requests", "selected_plus_errors_minus_requests")  # fmt: skip
    assert not any(found[name] for name in bad), found
    assert not {"hung", "wrong"} & {*found["outcomes"]}, found


def serve(port: int, log: str) -> None:
    """Serves a backend."""
    import uvicorn

    config = uvicorn.Config(
        Backend(log), port=port, log_level="critical", access_log=False, lifespan="off"
    )
    print("served", file=sys.stderr, flush=True)
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
