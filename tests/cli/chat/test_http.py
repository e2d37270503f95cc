"""Answers over HTTP, from a server that says what the test puts in its mouth."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from flaxen.cli.chat.http import Answer, http_answer

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


def ask(answer: Answer) -> list[str]:
    return list(answer([{"role": "user", "content": "Hi"}]))


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_pieces_of_an_answer(server: Server, suffix: str) -> None:
    model, answer = http_answer(server.url + suffix, None, "secret", {"max_tokens": 7})
    assert model == "first"
    assert ask(answer) == ["Hel", "lo"]
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


def test_a_model_by_name_is_not_looked_up(server: Server) -> None:
    model, answer = http_answer(server.url, "second", None, {})
    assert ask(answer) == ["Hel", "lo"]
    assert model == "second"
    assert [(path, key) for path, key, _ in server.requests] == [("/v1/chat/completions", None)]


def test_a_refusal_says_why(server: Server) -> None:
    _, answer = http_answer(server.url, "first", None, {})
    server.status, server.answer = 401, b'{"error": {"message": "wrong key"}}'
    with pytest.raises(OSError, match=r"refused /v1/chat/completions \(401 .*\): wrong key"):
        ask(answer)


def test_a_refusal_that_is_no_json_is_shown_as_it_is(server: Server) -> None:
    server.status, server.models = 502, b"<html>bad gateway</html>"
    with pytest.raises(OSError, match=r"refused /v1/models \(502 .*\): <html>bad gateway"):
        http_answer(server.url, None, None, {})


def test_an_error_amid_the_stream(server: Server) -> None:
    server.answer = _event(content="Hel") + b'data: {"error": {"message": "out of pages"}}\n\n'
    with pytest.raises(OSError, match="broke off its answer: out of pages"):
        ask(http_answer(server.url, "first", None, {})[1])


def test_a_stream_without_an_end(server: Server) -> None:
    server.answer = _event(content="Hel")
    with pytest.raises(OSError, match="closed the connection in the middle of its answer"):
        ask(http_answer(server.url, "first", None, {})[1])


def test_a_server_without_models(server: Server) -> None:
    server.models = b'{"data": []}'
    with pytest.raises(ValueError, match="serves no model"):
        http_answer(server.url, None, None, {})


def test_no_server() -> None:
    with pytest.raises(OSError, match=r"no answer from http://127.0.0.1:9: .*Is the server runn"):
        http_answer("http://127.0.0.1:9", None, None, {})


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "8000"])
def test_what_is_not_a_url(url: str) -> None:
    with pytest.raises(ValueError, match="is not the URL of a server: write it as http://127"):
        http_answer(url, None, None, {})
