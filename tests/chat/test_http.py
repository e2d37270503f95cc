"""Answers over HTTP, from a server that says what the test puts in its mouth."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from flaxen.chat.answers import Answer, Cut, Ending
from flaxen.chat.http import http_answer, server_models

MODELS = json.dumps({"data": [{"id": "first"}, {"id": "second"}]}).encode()


def _event(**delta: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"


ANSWER = (
    _event(role="assistant", content="")
    + b": a comment\n\n"
    + _event(content="Hel")
    + _event(content="lo")
    + b'data: {"choices": []}\n\ndata: [DONE]\n\n'
)


class Server(ThreadingHTTPServer):
    """Gives fixed answers; remembers the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        ThreadingHTTPServer.__init__(self, ("127.0.0.1", 0), Handler)
        self.status = 200
        self.models = MODELS
        self.answer = ANSWER
        self.requests: list[tuple[str, str | None, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.reply(self.server.models, None)

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.reply(self.server.answer, json.loads(self.rfile.read(length)))

    def reply(self, content: bytes, body: Any) -> None:
        self.server.requests.append((self.path, self.headers["Authorization"], body))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(answer: Answer, **sampling: Any) -> list[str | Ending]:
    return list(answer([{"role": "user", "content": "Hi"}], sampling))


def answer_of(url: str, api_key: str | None = None, *, counts_tokens: bool = False) -> Answer:
    return http_answer(url, "first", api_key, counts_tokens=counts_tokens)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_pieces_of_an_answer(server: Server, suffix: str) -> None:
    assert server_models(server.url + suffix, "secret") == ["first", "second"]
    answer = answer_of(server.url + suffix, "secret")
    assert ask(answer, max_tokens=7) == ["Hel", "lo", Ending()]
    assert server.requests == [
        ("/v1/models", "Bearer secret", None),
        (
            "/v1/chat/completions",
            "Bearer secret",
            {
                "model": "first",
                "messages": [{"role": "user", "content": "Hi"}],
                "stream": True,
                "max_tokens": 7,
            },
        ),
    ]


@pytest.mark.parametrize(
    ("sampling", "cut"),
    [
        ({}, Cut(limit="the server's limit", can_continue=False, can_raise=False)),
        ({"max_tokens": 2}, Cut(limit="--max-tokens 2", can_continue=False, can_raise=True)),
    ],
)
def test_an_answer_that_was_cut_and_its_counts(
    server: Server, sampling: dict[str, Any], cut: Cut
) -> None:
    last: dict[str, Any] = {"choices": [{"delta": {}, "finish_reason": "length"}], "usage": None}
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    chunks = [last, {"choices": [], "usage": usage}]
    server.answer = (
        _event(content="Hel")
        + b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
        + b"data: [DONE]\n\n"
    )
    found = ask(answer_of(server.url, counts_tokens=True), **sampling)
    assert found == [
        "Hel",
        Ending(cut=cut, num_prompt_tokens=5, num_cached_tokens=3, num_output_tokens=2),
    ]
    assert server.requests[0][2]["stream_options"] == {"include_usage": True}


def test_an_answer_of_a_server_is_not_continued(server: Server) -> None:
    answer = answer_of(server.url)
    with pytest.raises(ValueError, match="the answer of a server can't be continued: ask it to"):
        list(answer([{"role": "assistant", "content": "Hel"}], {}))


def test_a_refusal_says_why(server: Server) -> None:
    answer = answer_of(server.url)
    server.status, server.answer = 401, b'{"error": {"message": "wrong key"}}'
    with pytest.raises(OSError, match=r"refused /v1/chat/completions \(401 .*\): wrong key"):
        ask(answer)


def test_a_refusal_that_is_no_json_is_shown_as_it_is(server: Server) -> None:
    server.status, server.models = 502, b"<html>bad gateway</html>"
    with pytest.raises(OSError, match=r"refused /v1/models \(502 .*\): <html>bad gateway"):
        server_models(server.url, None)


def test_an_error_amid_the_stream(server: Server) -> None:
    server.answer = _event(content="Hel") + b'data: {"error": {"message": "out of pages"}}\n\n'
    with pytest.raises(OSError, match="broke off its answer: out of pages"):
        ask(answer_of(server.url))


def test_a_stream_without_an_end(server: Server) -> None:
    server.answer = _event(content="Hel")
    with pytest.raises(OSError, match="closed the connection in the middle of its answer"):
        ask(answer_of(server.url))


def test_a_server_without_models(server: Server) -> None:
    server.models = b'{"data": []}'
    with pytest.raises(ValueError, match="serves no model"):
        server_models(server.url, None)


def test_no_server() -> None:
    with pytest.raises(OSError, match=r"no answer from http://127.0.0.1:9: .*Is the server runn"):
        server_models("http://127.0.0.1:9", None)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "8000"])
def test_what_is_not_a_url(url: str) -> None:
    with pytest.raises(ValueError, match="is not the URL of a server: write it as http://127"):
        server_models(url, None)
