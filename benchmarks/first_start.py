"""What a newcomer waits for, of two commits in turns: the start, the first token, the first burst.

Both are checkouts with an environment of their own (`make demo`). Each round runs both, in the
other order than the round before; what counts is the median of each figure, and of the rounds'
ratios. "cold" is with an empty directory of compiled programs, "warm" the start after it.

    python benchmarks/first_start.py BEFORE [--rounds 3] [--model M] [--write NAME]

Figures: seconds from the start of the process to /health, the processor's seconds until then,
seconds of the first chat's first token and of a later one's, megabytes in memory at the start,
after a chat and after 64 requests at once, seconds from the start of Python to a ready LLM(), and
the longest that a request of a first burst of 16 waits for its first token, where two adapters and
the base model are mixed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
START_S = 300  # the most seconds that a start may take
LLM_PROGRAM = "import sys, flaxen; flaxen.LLM(sys.argv[1]); print('ready', flush=True)"
LONG_CHAT = "Tell me in detail how bread is made, step by step, and why each step matters."

Figures = dict[str, float]


@dataclass(frozen=True)
class Server:
    """A running server: its process, and how it is asked."""

    process: subprocess.Popen[bytes]
    url: str
    model: str

    def first_token_s(self, content: str, model: str | None = None, max_tokens: int = 16) -> float:
        """Asks for a chat, and reads it to its end. Returns the seconds to its first token."""
        body = {
            "model": model or self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
        }
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        started_s, first_s = time.perf_counter(), None
        with urllib.request.urlopen(request, timeout=START_S) as answer:
            for line in answer:
                if first_s is None and _has_text(line):
                    first_s = time.perf_counter() - started_s
        if first_s is None:
            raise RuntimeError(f"an answer of {model or self.model} has no text")
        return first_s

    def burst_s(self, contents: Sequence[str], models: Sequence[str], max_tokens: int) -> float:
        """Asks all at once. Returns the longest wait for a first token."""
        with ThreadPoolExecutor(len(contents)) as pool:
            waits = pool.map(
                lambda content, model: self.first_token_s(content, model, max_tokens),
                contents,
                models,
            )
            return max(waits)

    def memory_mb(self) -> float:
        """The memory that the process has now, in megabytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
        raise RuntimeError("this system does not say how much memory a process has")

    def cpu_s(self) -> float:
        """The processor's seconds of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _has_text(line: bytes) -> bool:
    if not line.startswith(b"data: {"):
        return False
    choices: list[dict[str, Any]] = json.loads(line[len(b"data: ") :]).get("choices", [])
    return any(choice["delta"].get("content") for choice in choices)


@contextlib.contextmanager
def serve(checkout: Path, model: str, cache: Path, *options: str) -> Iterator[tuple[Server, float]]:
    """Starts a server, and ends it. Yields it with the seconds to its first /health."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    python = str(checkout / ".venv/bin/python")
    command = [python, "-m", _entry(checkout), "serve", model, "--port", str(port), *options]
    started_s = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=checkout, env=_environment(cache), stderr=subprocess.DEVNULL
    )
    server = Server(process, f"http://127.0.0.1:{port}", model)
    try:
        _wait_for_health(server, started_s + START_S)
        yield server, time.perf_counter() - started_s
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_health(server: Server, until_s: float) -> None:
    while time.perf_counter() < until_s:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended with {server.process.returncode}")
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.01)
    raise RuntimeError(f"the server was not ready after {START_S} s")


def _entry(checkout: Path) -> str:
    """The module that runs the command: `flaxen` itself, in an earlier commit `flaxen.cli`."""
    return "flaxen" if (checkout / "flaxen/__main__.py").exists() else "flaxen.cli"


def _environment(cache: Path) -> dict[str, str]:
    """This process's environment, with a directory of compiled programs for LLM and the command."""
    unset = ("FLAXEN_CACHE", "JAX_COMPILATION_CACHE_DIR", "PYTHONPATH", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return {**kept, "XDG_CACHE_HOME": str(cache)}


def measure_server(checkout: Path, model: str, cache: Path) -> Figures:
    """The figures of a server without adapters."""
    with serve(checkout, model, cache) as (server, health_s):
        figures = {"health_s": health_s, "health_cpu_s": server.cpu_s()}
        figures["memory_start_mb"] = server.memory_mb()
        figures["first_token_s"] = server.first_token_s("Hello, who are you?")
        figures["memory_chat_mb"] = server.memory_mb()
        figures["later_token_s"] = server.first_token_s("Where is the sea?")
        contents = [f"{i}: {LONG_CHAT}" for i in range(64)]
        server.burst_s(contents, [model] * 64, max_tokens=128)
        figures["memory_64_mb"] = server.memory_mb()
    return figures


def measure_burst(checkout: Path, model: str, cache: Path, adapters: Path) -> Figures:
    """The figures of a server with two adapters, all of which a first burst mixes."""
    names = ("one", "two")
    modules = [word for name in names for word in ("--lora-modules", f"{name}={adapters / name}")]
    with serve(checkout, model, cache, "--enable-lora", *modules) as (server, health_s):
        contents = [f"{i}: {LONG_CHAT}"[: 20 + 4 * i] for i in range(16)]
        models = [(model, *names)[i % 3] for i in range(16)]
        longest_s = server.burst_s(contents, models, max_tokens=32)
    return {"lora_health_s": health_s, "lora_burst_s": longest_s}


def measure_llm(checkout: Path, model: str, cache: Path) -> Figures:
    """The seconds from the start of Python to a ready LLM()."""
    started_s = time.perf_counter()
    process = subprocess.Popen(
        [str(checkout / ".venv/bin/python"), "-c", LLM_PROGRAM, model],
        cwd=checkout,
        env=_environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    seconds = time.perf_counter() - started_s
    process.communicate()
    if line != b"ready\n":
        raise RuntimeError(f"LLM({model!r}) of {checkout} failed")
    return {"llm_s": seconds}


def measure(checkout: Path, model: str, adapters: Path) -> Figures:
    """All figures of one checkout, cold and then warm."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as directory:
        for state in ("cold", "warm"):
            found = measure_server(checkout, model, Path(directory) / "server")
            found |= measure_burst(checkout, model, Path(directory) / "burst", adapters)
            found |= measure_llm(checkout, model, Path(directory) / "llm")
            figures |= {f"{state}.{name}": value for name, value in found.items()}
    return figures


def write_adapters(model: str, directory: Path) -> None:
    """Writes two random adapters in PEFT's format, with this checkout's flaxen."""
    from adapters import random_adapter

    from flaxen.definitions.opening import open_model
    from flaxen.kernels.choice import choose_backend
    from flaxen.weights.adapters.peft_writer import save_adapter

    opened = open_model(model, backend=choose_backend())
    for seed, name in enumerate(("one", "two")):
        save_adapter(directory / name, random_adapter(opened.source.model, seed))


def main() -> None:
    """Reads the arguments, runs both sides in turns, prints the figures and a line of JSON."""
    from report import report  # found where this runs as a script
    from turns import SIDES, compare

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="the other checkout, with its .venv")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--write", metavar="NAME", help="also keep benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    checkouts = {"before": arguments.before.resolve(), "after": HERE}
    rounds: list[dict[str, Figures]] = []
    with tempfile.TemporaryDirectory() as directory:
        write_adapters(arguments.model, Path(directory))
        for number in range(arguments.rounds):
            order = SIDES if number % 2 else SIDES[::-1]
            rounds.append(
                {s: measure(checkouts[s], arguments.model, Path(directory)) for s in order}
            )
    compared = compare(rounds)
    for name, line in compared.items():
        print("  ".join(f"{key} {value:.3f}" for key, value in line.items()), name)
    kept = {"rounds": arguments.rounds, "model": arguments.model, "compared": compared}
    report(arguments.write or "first_start", kept, write=arguments.write is not None)


if __name__ == "__main__":
    main()
