"""Upstream: what answers a request once its model is chosen, in this process or at a URL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from starlette.types import Scope

from flaxen.server.errors import ApiError

Headers = tuple[tuple[str, str], ...]  # with names in lower case

# Headers of one connection, not of a request or an answer (RFC 9110, 7.6.1).
OF_CONNECTION = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization",
                 "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}  # fmt: skip


def of_connection(headers: Iterable[tuple[str, str]]) -> set[str]:
    """The names of the headers that belong to one connection: those that always do, and those that
    `connection` names. They must not be passed on."""
    named = ",".join(value for name, value in headers if name == "connection")
    return OF_CONNECTION | {name.strip().lower() for name in named.split(",")}


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request to a model.

    Attributes:
      path: of the API, as /v1/chat/completions.
      headers: those that the model's server gets, without those of a connection.
      body: JSON; empty for a GET.
      scope: of the client's request, with what the parts of this process keep of it.
    """

    path: str
    headers: Headers = ()
    body: bytes = b""
    method: str = "POST"
    scope: Scope = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer that has begun: its status and headers. Whoever has it must close its chunks, which
    ends the request where it is not finished.

    Attributes:
      chunks: the body as it arrives, no chunk empty; raises UpstreamError where it breaks off.
    """

    status: int
    headers: Headers
    chunks: AsyncGenerator[bytes, None]

    @property
    def is_stream(self) -> bool:
        """Whether it is a stream of events."""
        return dict(self.headers).get("content-type", "").startswith("text/event-stream")

    async def whole(self) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.chunks])


def later(status: int, message: str, code: str, kind: str = "server_error") -> ApiError:
    """An error of a request that may succeed later."""
    return ApiError(status, message, code=code, type=kind, headers={"retry-after": "1"})


class UpstreamError(Exception):
    """A model's server could not be reached, or broke off. The text says which and why."""


class Upstream(Protocol):
    """Answers requests for one model. Cancelling a call ends the request at the model's server."""

    async def send(self, call: Call) -> Answer:
        """Sends a request, and returns when its answer begins.

        Raises:
          UpstreamError: no answer began.
        """
