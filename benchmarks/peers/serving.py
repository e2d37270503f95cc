"""Workload S: servers under vLLM's own benchmark client, interleaved.

32 random requests of 128 tokens in and 128 out, 16 at a time. The client is the same program for
every server, and takes its share of the same cores. Deliberately does not know engines: a server
is a command that answers /health.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .processes import Group

# name in our report -> name in the client's
FIGURES: Mapping[str, str] = {
    "output_tok_s": "output_throughput",
    "ttft_p50_ms": "median_ttft_ms",
    "ttft_p99_ms": "p99_ttft_ms",
    "itl_p50_ms": "median_itl_ms",
    "itl_p99_ms": "p99_itl_ms",
}
NUM_REQUESTS = 32
NUM_WARM_UP = 16
_POLL_S = 0.1
_MESSAGE = 1000  # characters of the client's errors


@dataclass(frozen=True, kw_only=True)
class Server:
    """How to start one server, and where it then answers."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    url: str
    model: str  # as its clients call it


@dataclass(frozen=True, kw_only=True)
class Client:
    """vLLM's benchmark client.

    `program` is `vllm`, `tokenizer` the directory of the model's, `results` where its files go.
    """

    program: Path
    tokenizer: Path
    results: Path


@dataclass(kw_only=True)
class ServerOutcome:
    """The result of one server: its figures, a value for each repetition."""

    server: Server
    startup_s: float = 0.0
    peak_rss_bytes: int = 0
    figures: dict[str, list[float]] = field(default_factory=dict)
    error: str | None = None


class ServerError(Exception):
    """A server did not start, or did not answer every request."""


def compare_servers(
    servers: Sequence[Server],
    client: Client,
    num_reps: int,
    timeout_s: float,
    logs: Path,
    on_progress: Callable[[str], None],
) -> list[ServerOutcome]:
    """Starts the servers, runs the client against each in turn, ends them.

    Args:
      servers: with names of their own.
      client: what asks them.
      num_reps: repetitions, each with requests of its own.
      timeout_s: for a start, and for one run of the client.
      logs: directory for server-<name>.log.
      on_progress: told what is about to run.
    """
    outcomes = [ServerOutcome(server=server) for server in servers]
    if not outcomes:
        return []
    groups: dict[str, Group] = {}
    try:
        for outcome in outcomes:
            on_progress(f"S: server of {outcome.server.name} starts")
            _start(outcome, groups, timeout_s, logs)
        for i in range(num_reps + 1):  # the first is the warm-up
            first = i % len(outcomes)
            for outcome in outcomes[first:] + outcomes[:first]:
                on_progress(f"S {i}/{num_reps}: {outcome.server.name}")
                _measure(outcome, groups, client, i, timeout_s)
    finally:
        for group in groups.values():
            group.end()
    return outcomes


def _start(outcome: ServerOutcome, groups: dict[str, Group], timeout_s: float, logs: Path) -> None:
    server = outcome.server
    start_s = time.monotonic()
    try:
        group = Group(server.command, server.env, logs / f"server-{server.name}.log", talks=False)
    except OSError as error:
        outcome.error = f"it can't be started: {error}"
        return
    groups[server.name] = group
    while not is_healthy(server.url):
        if group.has_ended or time.monotonic() > start_s + timeout_s:
            outcome.error = f"it did not start. The end of {group.log}:\n{group.log_tail()}"
            groups.pop(server.name).end()
            return
        time.sleep(_POLL_S)
    outcome.startup_s = time.monotonic() - start_s
    group.pause()


def is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _measure(
    outcome: ServerOutcome, groups: dict[str, Group], client: Client, seed: int, timeout_s: float
) -> None:
    group = groups.get(outcome.server.name)
    if group is None:
        return
    group.resume()
    try:
        report = _ask(outcome.server, client, seed, timeout_s)
    except ServerError as error:
        outcome.error = str(error)
        groups.pop(outcome.server.name).end()
        return
    group.pause()
    outcome.peak_rss_bytes = group.peak_rss_bytes()
    if seed > 0:
        for name, theirs in FIGURES.items():
            outcome.figures.setdefault(name, []).append(report[theirs])


def _ask(server: Server, client: Client, seed: int, timeout_s: float) -> dict[str, Any]:
    num_requests = NUM_REQUESTS if seed > 0 else NUM_WARM_UP
    client.results.mkdir(parents=True, exist_ok=True)
    file = client.results / f"{server.name}-{seed}.json"
    file.unlink(missing_ok=True)
    command = [
        *(str(client.program), "bench", "serve", "--backend", "openai"),
        *("--base-url", server.url, "--endpoint", "/v1/completions"),
        *("--model", server.model, "--tokenizer", str(client.tokenizer)),
        *("--dataset-name", "random", "--random-input-len", "128", "--random-output-len", "128"),
        *("--num-prompts", str(num_requests), "--max-concurrency", "16", "--request-rate", "inf"),
        *("--ignore-eos", "--temperature", "0", "--seed", str(seed), "--disable-tqdm"),
        *("--percentile-metrics", "ttft,itl", "--metric-percentiles", "50,99"),
        *("--save-result", "--result-dir", str(client.results), "--result-filename", file.name),
    ]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise ServerError(f"the client was not done after {timeout_s:.0f} s") from None
    if done.returncode != 0 or not file.exists():
        raise ServerError(f"the client failed: {done.stderr[-_MESSAGE:].strip()}")
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if report["completed"] != num_requests:
        raise ServerError(
            f"it answered {report['completed']} of {num_requests} requests: its figures are not "
            "comparable"
        )
    return report
