"""Serves a real model, asks it something with the official OpenAI client, and stops it.

Exits non-zero if the server does not start, does not answer, or does not stop cleanly.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from openai import OpenAI

MODEL = "smollm2-135m"
QUESTION = "Give me three tips for writing code that is easy to read."
START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 30


def main() -> int:
    """Returns 0 when the server answered, and left with 0 on SIGTERM."""
    port = _free_port()
    print(f"$ flaxen serve {MODEL} --port {port}", flush=True)
    command = [sys.executable, "-m", "flaxen.cli", "serve", MODEL, "--port", str(port)]
    started_s = time.perf_counter()
    server = subprocess.Popen(command)
    try:
        _wait_until_healthy(server, f"http://127.0.0.1:{port}/health")
        print(f"ready after {time.perf_counter() - started_s:.1f} s\n", flush=True)
        _ask(OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none"))
        server.terminate()
        code = server.wait(STOP_TIMEOUT_S)
    finally:
        server.kill()  # does nothing to one that has ended
    print(f"the server stopped with exit code {code}")
    return 0 if code == 0 else 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(server: subprocess.Popen[bytes], url: str) -> None:
    deadline_s = time.perf_counter() + START_TIMEOUT_S
    while time.perf_counter() < deadline_s:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with exit code {server.returncode} at its start")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise SystemExit(f"the server was not healthy after {START_TIMEOUT_S} s")


def _ask(client: OpenAI) -> None:
    print(f"> {QUESTION}\n", flush=True)
    start_s = time.perf_counter()
    first_s = num_tokens = 0.0
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=128,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        for choice in chunk.choices:
            if choice.delta.content:
                first_s = first_s or time.perf_counter()
                print(choice.delta.content, end="", flush=True)
        if chunk.usage is not None:
            num_tokens = chunk.usage.completion_tokens
    end_s = time.perf_counter()
    if not first_s or num_tokens < 2:
        raise SystemExit(f"the answer is missing: {num_tokens} tokens were reported")
    print(
        f"\n\ntime to first token {1000 * (first_s - start_s):.0f} ms, then "
        f"{(num_tokens - 1) / (end_s - first_s):.1f} tokens/s"
    )


if __name__ == "__main__":
    sys.exit(main())
