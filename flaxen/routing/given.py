"""Given: a client's request, and the calls that are made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.types import Send

from flaxen.routing.compiled import Router, Target
from flaxen.routing.upstream import Call, of_connection
from flaxen.server.errors import invalid
from flaxen.server.sse import to_json

APIS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "messages",
    "/v1/embeddings": "embeddings",
}
APIS |= {path.removeprefix("/v1"): api for path, api in APIS.items() if api != "messages"}
_KEYS = {"authorization", "x-api-key"}


@dataclass(frozen=True)
class Given:
    """A request of a client.

    Attributes:
      router: the configuration that it began with.
      begin_s: when that was, by perf_counter.
      drops_keys: whether its keys were the router's, which no model's server may see.
    """

    http: Request
    send: Send
    router: Router
    body: dict[str, Any]
    begin_s: float
    drops_keys: bool

    @property
    def path(self) -> str:
        return str(self.http.state.log.path)

    @property
    def api(self) -> str:
        return APIS[self.path]

    @property
    def request_id(self) -> str:
        return str(self.http.state.request_id)

    def call(
        self,
        target: Target,
        body: Mapping[str, Any],
        raw: bytes | None = None,
        changed: Callable[[Mapping[str, str]], dict[str, str]] = dict,
    ) -> Call:
        """The request for a model: the client's, with the name by which its server knows it.

        Args:
          raw: the body as it is sent; None: it is made of `body`.
          changed: changes the headers.

        Raises:
          ApiError: 400, the model's server does not know the API.
        """
        if target.api not in ("", self.api):
            told = f"the server of {target.name} knows {target.api} alone, no {self.api}"
            raise invalid(f"{told}: ask another model, or POST /v1/messages", "model")
        if raw is None:
            raw = raw_body(body, target)
        pairs = self.http.headers.items()
        dropped = of_connection(pairs) | {"host"} | (_KEYS if self.drops_keys else set())
        given_headers = {k: v for k, v in pairs if k not in dropped}
        if target.api:  # Anthropic's refuse a request without
            given_headers.setdefault("anthropic-version", "2023-06-01")
        headers = tuple((changed(given_headers) | {"content-length": str(len(raw))}).items())
        return Call(path=self.path, headers=headers, body=raw, scope=self.http.scope)


def raw_body(body: Mapping[str, Any], target: Target) -> bytes:
    """A body as it is sent to a model.

    Raises:
      ApiError: 400, JSON can't say a number of it.
    """
    try:
        return to_json({**body, "model": target.name}).encode()
    except ValueError:
        raise invalid("a number of the body is too large for JSON") from None
