"""Chat answers from a running OpenAI-compatible server, over plain HTTP.

Knows: the two calls that a chat needs, and how their stream is framed. Deliberately does not know
the terminal, nor flaxen's own server: any server of that interface will do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

Message = Mapping[str, str]
Answer = Callable[
    [Sequence[Message]], Generator[str, None, None]
]  # a conversation -> pieces of the answer

_TIMEOUT_S = 600.0  # without a byte from the server


class AnswerError(Exception):
    """The engine failed at one answer: the conversation can go on without it."""


def http_answer(
    url: str, model: str | None, api_key: str | None, sampling: Mapping[str, Any]
) -> tuple[str, Answer]:
    """Finds the server's model, and returns its name and the function that asks it.

    Args:
      url: the server, as http://127.0.0.1:8000, with or without /v1 at the end.
      model: one of the server's models; None is its first.
      api_key: sent as a bearer token.
      sampling: fields for the body of each request.

    Raises:
      ValueError: the URL is not one, or the server has no model.
      OSError: the server can't be reached, or refuses.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not the URL of a server: write it as http://127.0.0.1:8000")
    base = parts.path.rstrip("/").removesuffix("/v1")
    headers = {"Content-Type": "application/json"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    connection_class = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    host, port = parts.hostname, parts.port

    @contextmanager
    def request(method: str, path: str, body: str | None = None) -> Iterator[HTTPResponse]:
        with closing(connection_class(host, port, timeout=_TIMEOUT_S)) as connection:
            try:
                connection.request(method, base + path, body, headers)
                response = connection.getresponse()
            except (OSError, HTTPException) as error:
                raise OSError(f"no answer from {url}: {error}. Is the server running?") from error
            if response.status != 200:
                raise OSError(
                    f"{url} refused {path} ({response.status} {response.reason}): "
                    f"{_error_message(response.read())}"
                )
            yield response

    if model is None:
        with request("GET", "/v1/models") as response:
            models = json.loads(response.read()).get("data", [])
        if not models:
            raise ValueError(f"{url} serves no model")
        model = str(models[0]["id"])

    def answer(messages: Sequence[Message]) -> Generator[str, None, None]:
        body = json.dumps({"model": model, "messages": list(messages), "stream": True, **sampling})
        # Leaving this block, by the end or by close(), closes the connection: the server aborts.
        with request("POST", "/v1/chat/completions", body) as response:
            yield from _deltas(response)

    return model, answer


def _deltas(lines: Iterable[bytes]) -> Iterator[str]:
    for line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise OSError(f"the server broke off its answer: {_error_message(data)}")
        for choice in chunk["choices"]:
            if text := choice["delta"].get("content"):
                yield text
    raise OSError("the server closed the connection in the middle of its answer")


def _error_message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")[:200]
