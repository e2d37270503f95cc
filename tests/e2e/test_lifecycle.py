"""How requests and servers end early: clients that leave, timeouts, full queues, SIGTERM."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.serving import CAPITAL, KEY, ONCE, ONE_TWO, Server, serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# One small step to compile, and every limit low enough to be met.
SMALL = (
    "--max-model-len", "512", "--max-num-seqs", "2", "--max-num-batched-tokens", "16",
    "--compile-size", "16", "--kv-cache-size", "64MiB",
)  # fmt: skip
LIMITS = (
    "--max-waiting", "1", "--request-timeout-s", "1", "--body-timeout-s", "0.5",
    "--max-body-size", "4KiB", "--max-prompts", "2", "--max-n", "2", "--max-stop", "1",
    "--max-logprobs", "2", "--served-model-name", "main", "--served-model-name", "other",
    "--cors-origin", "https://example.org", "--no-prefix-caching",
)  # fmt: skip
ENDLESS: dict[str, Any] = {"max_tokens": 450, "ignore_eos": True}


@pytest.fixture(scope="module")
def strict(compile_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log_file = tmp_path_factory.mktemp("strict") / "log"
    with serve(compile_cache, log_file, *SMALL, *LIMITS, model="main") as server:
        yield server


def test_a_client_that_leaves_a_stream_frees_its_pages(server: Server) -> None:
    before = server.wait_until_idle()
    with server.complete(ONCE, n=4, stream=True, **ENDLESS) as stream:
        next(iter(stream))
        during = server.metrics()
        assert during["num_requests_running"] == 4
        assert during["kv_cache_usage_perc"] > 0
        with server.chat(CAPITAL, stream=True, **ENDLESS) as second:
            parts = iter(second)
            next(parts)  # the role alone, before the first token
            next(parts)
            assert server.metrics()["num_requests_running"] == 5
    after = server.wait_until_idle()
    assert after["request_success_totalabort"] - before["request_success_totalabort"] == 5
    num_generated = after["generation_tokens_total"] - before["generation_tokens_total"]
    assert num_generated < 5 * ENDLESS["max_tokens"] / 2


def test_a_client_that_does_not_wait_frees_its_pages(server: Server) -> None:
    before = server.wait_until_idle()
    body = {"prompt": [ONCE, ONE_TWO], **ENDLESS}
    with pytest.raises(httpx.ReadTimeout):
        server.http.post("/v1/completions", json=body, timeout=0.5)
    after = server.wait_until_idle()
    assert after["request_success_totalabort"] - before["request_success_totalabort"] == 2


def test_a_request_has_a_time_limit(strict: Server) -> None:
    start_s = time.monotonic()
    with pytest.raises(openai.InternalServerError, match="within 1 seconds") as caught:
        strict.complete(ONCE, **ENDLESS)
    assert (caught.value.status_code, caught.value.code) == (504, "timeout")
    assert time.monotonic() - start_s >= 1
    chunks: list[Any] = []
    with pytest.raises(openai.APIError, match="within 1 seconds"):
        chunks.extend(strict.complete(ONCE, stream=True, **ENDLESS))
    assert chunks  # what came in time was sent in time
    assert strict.wait_until_idle()["request_success_totalabort"] == 2


def test_a_full_queue_refuses(strict: Server) -> None:
    with (
        strict.complete(ONCE, n=2, stream=True, **ENDLESS) as running,
        strict.complete(ONE_TWO, stream=True, **ENDLESS),
    ):
        next(iter(running))
        strict.wait_for(num_requests_running=2, num_requests_waiting=1)
        with pytest.raises(openai.RateLimitError, match="queue is full") as caught:
            strict.complete("Hi", max_tokens=1)
        assert caught.value.code == "queue_full"
        assert caught.value.response.headers["retry-after"] == "1"
    patient = strict.openai.with_options(max_retries=9)
    # The client's own way to try again later.
    assert patient.completions.create(model="main", prompt="Hi", max_tokens=1).choices
    strict.wait_until_idle()


def test_a_body_has_a_time_limit(strict: Server) -> None:
    url = httpx.URL(strict.url)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: flaxen\r\nauthorization: Bearer {KEY}\r\n"
        "content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"prompt": "Hi " * 2000}, 413, "larger than 4096 bytes"),
        ({"prompt": ["a", "b", "c"]}, 400, "at most 2 prompts"),
        ({"prompt": "a", "n": 3}, 400, "n must be at most 2"),
        ({"prompt": "a", "stop": ["x", "y"]}, 400, "at most 1 string"),
        ({"prompt": "a", "logprobs": 3}, 400, "in [0, 2]"),
        ({"prompt": "a", "model": "smollm2-135m"}, 404, "use main or other"),
    ],
)
def test_limits_are_options(strict: Server, body: dict[str, Any], status: int, words: str) -> None:
    answer = strict.http.post("/v1/completions", json=body)
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True)


def test_other_options_act(strict: Server) -> None:
    assert [model.id for model in strict.openai.models.list().data] == ["main", "other"]
    for name in ("main", "other"):
        answer = strict.complete(ONCE * 5, max_tokens=1, model=name)
        assert answer.model == name
        assert answer.usage.prompt_tokens > 17
        assert answer.usage.prompt_tokens_details.cached_tokens == 0
    for origin, allowed in (("https://example.org", "https://example.org"), ("https://a", None)):
        health = strict.http.get("/health", headers={"origin": origin})
        assert health.headers.get("access-control-allow-origin") == allowed


def test_sigterm_drains(compile_cache: Path, tmp_path: Path) -> None:
    with serve(compile_cache, tmp_path / "log", *SMALL, "--drain-s", "3") as server:
        endless = iter(server.complete(ONCE, stream=True, **ENDLESS))
        short = iter(server.complete(ONE_TWO, stream=True, max_tokens=4))
        next(endless)
        next(short)
        server.process.send_signal(signal.SIGTERM)
        _wait_for_503(server)
        with pytest.raises(openai.InternalServerError, match="takes no more requests") as caught:
            server.complete("Hi", max_tokens=1)
        assert (caught.value.status_code, caught.value.code) == (503, "unavailable")
        *_, last = short
        assert last.choices[0].finish_reason == "length"
        with pytest.raises(openai.APIError, match="cut short: the server is shutting down"):
            for _ in endless:
                pass
        assert server.process.wait(10) == 0
        assert "Traceback" not in server.log_file.read_text()


def _wait_for_503(server: Server) -> None:
    deadline_s = time.monotonic() + 5
    while server.http.get("/health").status_code != 503:
        assert time.monotonic() < deadline_s, "/health is still OK after SIGTERM"
        time.sleep(0.01)
