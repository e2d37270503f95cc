"""A `flaxen serve` process, as a user starts it, and what the tests ask of it.

Deliberately imports nothing of flaxen: only what a client sees is tested here.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
from prometheus_client.parser import text_string_to_metric_families

MODEL = "smollm2-135m"
KEY = "sk-of-the-tests"
CAPITAL = [{"role": "user", "content": "What is the capital of Germany?"}]  # answered in 8 tokens
END_OF_TURN = 2  # <|im_end|>, the model's end of sequence
# Whose likeliest tokens are far ahead of the next, for 10 and 24 tokens: no rounding changes them.
ONE_TWO = "One, two, three,"
ONCE = "Once upon a time"

_READY = re.compile(r" (?:is|are) served on (http://\S+)")
_START_TIMEOUT_S = 300


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server: its process, its clients with the key, and its log so far."""

    url: str
    model: str  # its name there
    process: subprocess.Popen[bytes]
    log_file: Path
    http: httpx.Client
    openai: Any  # Any, since bodies here are dicts and not the client's typed arguments

    def complete(self, prompt: Any, **body: Any) -> Any:
        """/v1/completions, greedy unless told; fields that only flaxen has go as extra_body."""
        body = {"model": self.model, "temperature": 0, **body}
        return self.openai.completions.create(prompt=prompt, **_split(body))

    def chat(self, messages: Any, **body: Any) -> Any:
        """/v1/chat/completions in the same way."""
        body = {"model": self.model, "temperature": 0, **body}
        return self.openai.chat.completions.create(messages=messages, **_split(body))

    def metrics(self) -> dict[str, float]:
        """The value of each series, a reason of an end behind its name."""
        page = self.http.get("/metrics").raise_for_status().text
        return {
            sample.name.removeprefix("flaxen:") + sample.labels.get("finished_reason", ""):
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if "le" not in sample.labels
        }  # fmt: skip

    def wait_for(self, **gauges: float) -> dict[str, float]:
        """Waits until the gauges have these values. Returns the metrics."""
        # Long only where the engine's thread compiles at the time.
        deadline_s = time.monotonic() + 30
        while True:
            metrics = self.metrics()
            found = {name: metrics[name] for name in gauges}
            if found == gauges:
                return metrics
            assert time.monotonic() < deadline_s, f"{found} does not become {gauges}"
            time.sleep(0.02)

    def wait_until_idle(self) -> dict[str, float]:
        """Waits until nothing runs, waits or owns a page. Returns the metrics."""
        return self.wait_for(num_requests_running=0, num_requests_waiting=0, kv_cache_usage_perc=0)


# Makes completions name tokens by their ids.
IDS = {"return_token_ids": True, "return_tokens_as_token_ids": True}


def ids(server: Server, prompt: Any, **body: Any) -> list[int]:
    """The ids of one completion's tokens."""
    (choice,) = server.complete(prompt, **IDS, **body).choices
    return list(choice.token_ids)


def tops(choice: Any) -> list[dict[int, float]]:
    """The likeliest tokens at each place and their log-probabilities, likeliest first, which the
    answer begins with the token that was sampled.
    """
    return [
        {
            int(name.removeprefix("token_id:")): value
            for name, value in sorted(top.items(), key=lambda each: -each[1])
        }
        for top in choice.logprobs.top_logprobs
    ]


def words(server: Server, text: str) -> list[int]:
    """The ids of a text's tokens."""
    tokens: list[int] = server.http.post("/tokenize", json={"prompt": text}).json()["tokens"]
    return tokens


# What the official client takes by name; the rest is vLLM's and goes into extra_body.
_OPENAI_FIELDS = {
    "best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "model", "n", "presence_penalty", "seed", "stop", "stream", "stream_options",
    "temperature", "top_logprobs", "top_p", "user", "extra_headers",
}  # fmt: skip


def _split(body: dict[str, Any]) -> dict[str, Any]:
    ours = {name: value for name, value in body.items() if name not in _OPENAI_FIELDS}
    return {name: value for name, value in body.items() if name in _OPENAI_FIELDS} | {
        "extra_body": ours
    }


@contextlib.contextmanager
def serve(
    cache: Path, log_file: Path, *options: str, path: str = MODEL, model: str = MODEL
) -> Iterator[Server]:
    """Starts a server on a free port of this machine, and ends it.

    Args:
      cache: for what it compiles.
      log_file: for what it writes to stderr.
      options: of `flaxen serve`.
      path: what is served, as the command takes it.
      model: its name there.
    """
    command = [
        sys.executable, "-X", "faulthandler", "-m", "flaxen", "serve", path, "--port", "0",
        "--api-key", KEY, "--compile-cache", str(cache), *options,
    ]  # fmt: skip
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, env=dict(os.environ), stderr=log)
    try:
        url = _wait_until_ready(process, log_file)
        headers = {"authorization": f"Bearer {KEY}"}
        with (
            httpx.Client(base_url=url, headers=headers, timeout=120) as http,
            openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=120) as client,
        ):
            yield Server(
                url=url, model=model, process=process, log_file=log_file, http=http, openai=client
            )
    finally:
        process.kill()  # does nothing to one that has ended
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log_file: Path) -> str:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        log = log_file.read_text()
        ready = _READY.search(log)
        if ready is not None:
            return ready[1]
        assert process.poll() is None, f"the server ended at its start:\n{log}"
        if time.monotonic() > deadline_s:
            process.send_signal(signal.SIGABRT)  # faulthandler writes where each thread is
            process.wait(30)
            log = log_file.read_text()
            raise AssertionError(f"not ready after {_START_TIMEOUT_S} s:\n{log}")
        time.sleep(0.05)
