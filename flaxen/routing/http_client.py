"""HttpClient: keeps connections to servers. Finding one costs the same however many there are."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator
from functools import lru_cache
from typing import Self
from urllib.parse import quote, urlsplit

from flaxen.routing.http_answer import BROKEN, Head, read_body, read_head
from flaxen.routing.upstream import Answer, Headers, UpstreamError

_CONNECT_S = 5.0  # then the next server of the model is tried
# Below the 5 s after which uvicorn closes an idle connection, so that none is used while it does.
_KEPT_S = 4.0
_TIDY_S = 1.0  # between two looks for connections that are idle for longer
_MOST_IDLE = 256  # of one server
_PRINTED = "/?%:@!$&'()*+,;="  # in a URL as they are, beside letters, digits and -._~

_Server = tuple[str, int, bool]  # its name, its port, and whether it speaks TLS
_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class NotConnectedError(UpstreamError):
    """A server does not accept a connection, so that it has seen nothing of the request."""


class HttpClient:
    """Sends requests to servers, each over a connection that nobody else has at the time.

    It has no limits of its own, as those of the router count, reads no variables of the
    environment, and adds no headers but the host and, where it is missing, the length of the body.
    """

    def __init__(self) -> None:
        self._ssl = ssl.create_default_context()
        # By server, with the time since which they are idle; the latest is used first.
        self._idle: defaultdict[_Server, deque[tuple[float, _Connection]]] = defaultdict(deque)
        self._timer: asyncio.TimerHandle | None = None  # runs while a connection is idle

    async def send(self, method: str, url: str, headers: Headers, body: bytes) -> Answer:
        """Returns an answer whose body was not read; closing its chunks ends the request.

        Raises:
          NotConnectedError: the server does not accept the connection.
          UpstreamError: it broke off; the chunks raise it, too.
        """
        server, host, target = _parsed(url)
        if body and "content-length" not in dict(headers):
            headers += (("content-length", str(len(body))),)
        lines = [f"{method} {target} HTTP/1.1", f"host: {host}"]
        text = "\r\n".join(lines + [f"{name}: {value}" for name, value in headers])
        is_latin = text.isascii() or max(text) <= "\xff"
        num_lines = text.count("\r"), text.count("\n")
        if num_lines != (len(headers) + 1,) * 2 or "\0" in text or not is_latin:
            raise UpstreamError(f"{url} was not asked: a header is no line of Latin-1 text")
        raw = b"%b\r\n\r\n%b" % (text.encode("latin-1"), body)
        connection = self._kept(server)
        head = connection and await _head_of(url, connection, raw)
        if not connection or not head:  # none is kept, or its server closed it as it was used
            connection = await self._connect(url, server)
            head = await _head_of(url, connection, raw)
        if head is None:
            raise _broke_off(url, EOFError())
        chunks = self._chunks(url, connection, head, self._idle[server])
        return Answer(status=head.status, headers=head.headers, chunks=chunks)

    def _kept(self, server: _Server) -> _Connection | None:
        """A connection that is open; None if there is none."""
        idle, oldest = self._idle[server], time.monotonic() - _KEPT_S
        while idle and idle[-1][0] > oldest:
            connection = idle.pop()[1]
            if _is_silent(connection[0]):
                return connection
            _drop(connection)
        return None

    async def _connect(self, url: str, server: _Server) -> _Connection:
        host, port, is_tls = server
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await asyncio.open_connection(host, port, ssl=self._ssl if is_tls else None)
        except OSError as error:  # TimeoutError, too
            why = str(error) or type(error).__name__
            raise NotConnectedError(f"{url} can't be reached: {why}") from None

    async def _chunks(
        self, url: str, connection: _Connection, head: Head, idle: deque[tuple[float, _Connection]]
    ) -> AsyncGenerator[bytes, None]:
        is_whole = False
        try:
            async for chunk in read_body(connection[0], head):
                yield chunk
            is_whole = True
        except BROKEN as error:
            raise _broke_off(url, error) from None
        finally:
            if is_whole and head.may_follow and len(idle) < _MOST_IDLE:
                idle.append((time.monotonic(), connection))
                if self._timer is None:
                    self._wait_to_tidy()
            else:
                _drop(connection)

    def _wait_to_tidy(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_TIDY_S, self._tidy)

    def _tidy(self) -> None:
        """Closes the connections that are idle for too long, and comes again while others are."""
        self._timer, oldest = None, time.monotonic() - _KEPT_S
        for idle in self._idle.values():
            while idle and idle[0][0] <= oldest:
                _drop(idle.popleft()[1])
        if any(self._idle.values()):
            self._wait_to_tidy()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections that are idle."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for idle in self._idle.values():
            while idle:
                _drop(idle.pop()[1])


async def _head_of(url: str, connection: _Connection, raw: bytes) -> Head | None:
    """Sends a request, and returns the head of its answer; None if the connection ends before."""
    reader, writer = connection
    try:
        writer.write(raw)
        return await read_head(reader)
    except BaseException as error:
        _drop(connection)
        if isinstance(error, ConnectionError) or (
            isinstance(error, asyncio.IncompleteReadError) and not error.partial
        ):
            return None
        if isinstance(error, BROKEN):
            raise _broke_off(url, error) from None
        raise


@lru_cache(1024)
def _parsed(url: str) -> tuple[_Server, str, str]:
    """What a URL says: the server, its name for the header, and what is asked of it."""
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    server = parts.hostname or "", parts.port or (443 if is_tls else 80), is_tls
    host = parts.netloc.rpartition("@")[2].encode("idna").decode()
    target = parts._replace(scheme="", netloc="", path=parts.path or "/").geturl()
    return server, host, quote(target, _PRINTED)


def _drop(connection: _Connection) -> None:
    """Closes a connection at once, whatever it still had to send."""
    _, writer = connection  # which warns if it goes before its transport is closed
    writer.transport.abort()


def _is_silent(reader: asyncio.StreamReader) -> bool:
    """Whether an idle connection is open, and its server has said nothing without a request: then
    reading has to wait."""
    reading = reader.read(1)
    try:
        reading.send(None)
    except (StopIteration, OSError):
        return False
    reading.close()
    return True


def _broke_off(url: str, error: BaseException) -> UpstreamError:
    told = "it closed the connection" if isinstance(error, EOFError) else str(error)
    return UpstreamError(f"{url} broke off: {told or type(error).__name__}")
