"""HttpClient: keeps connections to servers. Finding one costs the same however many there are.

httpx's own pool looks at each of its connections for each request, with system calls for each that
is idle: at 64 connections that was a third of the router's time (decision 0356).
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator
from typing import Self

import httpx

from flaxen.routing.upstream import Headers

_CONNECT_S = 5.0  # then the next server of the model is tried
# Below the 5 s after which uvicorn closes an idle connection, so that none is used while it does.
_KEPT_S = 4.0
_MOST_IDLE = 256  # of one server
_TIMEOUT = httpx.Timeout(None, connect=_CONNECT_S).as_dict()
_LIMITS = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)


class HttpClient:
    """Sends requests to servers, each over a connection that nobody else has at the time.

    It has no limits of its own, as those of the router count, reads no variables of the
    environment, and adds no header but that of the host.
    """

    def __init__(self) -> None:
        self._ssl = httpx.create_ssl_context(trust_env=False)
        # By server, with the time since which they are idle; the latest is used first.
        self._idle: defaultdict[str, deque[tuple[float, httpx.AsyncHTTPTransport]]]
        self._idle = defaultdict(deque)

    async def send(
        self, method: str, url: str, headers: Headers, body: bytes
    ) -> tuple[httpx.Response, AsyncGenerator[bytes, None]]:
        """Returns an answer whose body was not read, and its body; closing that ends the request.

        Raises:
          httpx.ConnectError, httpx.ConnectTimeout: the server does not accept the connection.
          httpx.HTTPError: it broke off; the body raises it, too.
        """
        extensions = {"timeout": _TIMEOUT}
        request = httpx.Request(
            method, url, headers=list(headers), content=body, extensions=extensions
        )
        idle = self._idle[f"{request.url.scheme}://{request.url.netloc.decode()}"]
        connection = self._connection(idle)
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            await connection.aclose()
            raise
        return response, self._body(response, connection, idle)

    def _connection(
        self, idle: deque[tuple[float, httpx.AsyncHTTPTransport]]
    ) -> httpx.AsyncHTTPTransport:
        if idle and idle[-1][0] > time.monotonic() - _KEPT_S:
            return idle.pop()[1]
        return httpx.AsyncHTTPTransport(verify=self._ssl, limits=_LIMITS, trust_env=False)

    async def _body(
        self,
        response: httpx.Response,
        connection: httpx.AsyncHTTPTransport,
        idle: deque[tuple[float, httpx.AsyncHTTPTransport]],
    ) -> AsyncGenerator[bytes, None]:
        is_whole = False
        try:
            async for chunk in response.aiter_raw():
                if chunk:
                    yield chunk
            is_whole = True
        finally:
            await response.aclose()
            now = time.monotonic()
            if is_whole and len(idle) < _MOST_IDLE:
                idle.append((now, connection))
            else:
                await connection.aclose()
            while idle and idle[0][0] <= now - _KEPT_S:
                await idle.popleft()[1].aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections that are idle."""
        for idle in self._idle.values():
            while idle:
                await idle.pop()[1].aclose()
