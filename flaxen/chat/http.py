"""Chat answers from a running OpenAI-compatible server, over plain HTTP.

Knows: the two HTTP calls that a chat needs, and server-sent events. Deliberately does not know the
    terminal, nor flaxen's own server: any server with this API works.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from flaxen.chat.answers import Answer, Cut, Ending, Message

_TIMEOUT_S = 600.0  # without a byte from the server


def server_models(url: str, api_key: str | None) -> list[str]:
    """The names of a server's models and adapters, the main one first.

    Raises:
      ValueError: the URL is not one, or the server has no model.
      OSError: the server can't be reached, or refuses.
    """
    server = _find_server(url, api_key)
    with server.request("GET", "/v1/models") as response:
        models = json.loads(response.read()).get("data", [])
    if not models:
        raise ValueError(f"{server.url} serves no model")
    return [str(each["id"]) for each in models]


def http_answer(url: str, model: str, api_key: str | None, *, counts_tokens: bool) -> Answer:
    """Returns a function that gets answers from a server.

    Args:
      url: the server, as http://127.0.0.1:8000, with or without /v1 at the end.
      model: the name of one of its models or adapters.
      api_key: sent as a bearer token.
      counts_tokens: ask the server for the numbers of tokens, which not every server knows.

    Raises:
      ValueError: the URL is not one.
    """
    server = _find_server(url, api_key)
    more = {"stream_options": {"include_usage": True}} if counts_tokens else {}

    def answer(
        messages: Sequence[Message], sampling: Mapping[str, Any]
    ) -> Generator[str | Ending, None, None]:
        if messages[-1]["role"] == "assistant":
            raise ValueError(
                "the answer of a server can't be continued: ask it to go on, or /set max_tokens "
                "and /regenerate"
            )
        asked = {"model": model, "messages": list(messages), "stream": True, **more, **sampling}
        # Leaving this block, at the end or by close(), closes the connection, and the server
        # aborts.
        with server.request("POST", "/v1/chat/completions", json.dumps(asked)) as response:
            yield from _pieces(response, sampling.get("max_tokens"))

    return answer


@dataclass(frozen=True, kw_only=True)
class _Endpoint:
    """A server's address, and the headers of each request."""

    url: str  # as the user gave it
    connect: Callable[[], HTTPConnection]
    path: str  # before /v1
    headers: Mapping[str, str]

    @contextmanager
    def request(self, method: str, path: str, body: str | None = None) -> Iterator[HTTPResponse]:
        """Yields the response, which must be a success; the connection closes afterwards."""
        with closing(self.connect()) as connection:
            try:
                connection.request(method, self.path + path, body, self.headers)
                response = connection.getresponse()
            except (OSError, HTTPException) as error:
                raise OSError(
                    f"no answer from {self.url}: {error}. Is the server running?"
                ) from error
            if response.status != 200:
                raise OSError(
                    f"{self.url} refused {path} ({response.status} {response.reason}): "
                    f"{_error_message(response.read())}"
                )
            yield response


def _find_server(url: str, api_key: str | None) -> _Endpoint:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not the URL of a server: write it as http://127.0.0.1:8000")
    connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    headers = {"Content-Type": "application/json"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    return _Endpoint(
        url=url,
        connect=partial(connection, parts.hostname, parts.port, timeout=_TIMEOUT_S),
        path=parts.path.rstrip("/").removesuffix("/v1"),
        headers=headers,
    )


def _pieces(lines: Iterable[bytes], max_tokens: int | None) -> Iterator[str | Ending]:
    is_cut = False
    usage: dict[str, Any] = {}
    for chunk in _chunks(lines):
        for choice in chunk["choices"]:
            if text := choice["delta"].get("content"):
                yield text
            is_cut = is_cut or choice.get("finish_reason") == "length"
        usage = chunk.get("usage") or usage
    limit = "the server's limit" if max_tokens is None else f"--max-tokens {max_tokens}"
    yield Ending(
        cut=Cut(limit=limit, can_continue=False, can_raise=max_tokens is not None)
        if is_cut
        else None,
        num_prompt_tokens=usage.get("prompt_tokens"),
        num_cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        num_output_tokens=usage.get("completion_tokens"),
    )


def _chunks(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise OSError(f"the server broke off its answer: {_error_message(data)}")
        yield chunk
    raise OSError("the server closed the connection in the middle of its answer")


def _error_message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")[:200]
