"""Reads an answer of HTTP/1.1 (RFC 9112) from a connection. Deliberately knows no request."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from flaxen.routing.upstream import Headers

_READ_BYTES = 65_536  # at once
_HEAD = re.compile(
    rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [^\r\n]*)?\r\n((?:[!#$%&'*+.^_`|~\w-]+:[^\r\n\0]*\r\n)*)\r\n"
)
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")

# What reading may raise: the connection broke, ended too early, or brought no HTTP.
BROKEN = (OSError, EOFError, asyncio.LimitOverrunError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Head:
    """The head of an answer.

    Attributes:
      length: bytes of the body, or of its first chunk (0: not known yet); infinite if the body ends
        with the connection.
      is_chunked: whether the body comes in chunks of HTTP.
      may_follow: whether the connection may be used for another request, behind the body.
    """

    status: int
    headers: Headers
    length: float
    is_chunked: bool
    may_follow: bool


async def read_head(reader: asyncio.StreamReader) -> Head:
    """Reads the head of the answer to a request that is no HEAD; raises BROKEN."""
    found = None
    while found is None or found[2].startswith(b"1"):  # as 100 Continue, before the answer
        found = _HEAD.fullmatch(await reader.readuntil(b"\r\n\r\n"))
        if found is None or found[2] == b"101":  # nobody asked for another protocol
            raise _wrong()
    status = int(found[2])
    pairs = (line.partition(":") for line in found[3].decode("latin-1").split("\r\n")[:-1])
    headers = tuple((name.lower(), value.strip(" \t")) for name, _, value in pairs)
    lengths = {value for name, value in headers if name == "content-length"}
    coding = ",".join(value for name, value in headers if name == "transfer-encoding").lower()
    closes = "close" in ",".join(value for name, value in headers if name == "connection").lower()
    has_body = status not in (204, 304)
    length = math.inf if has_body and not coding else 0.0
    if lengths and length:
        given = ",".join(lengths)
        length = int(given) if given.isascii() and given.isdigit() else math.nan
    if coding not in ("", "chunked") or math.isnan(length):
        raise _wrong()
    return Head(
        status=status,
        # An answer with both lengths has that of its chunks (RFC 9112, 6.3).
        headers=tuple(pair for pair in headers if not coding or pair[0] != "content-length"),
        length=length,
        is_chunked=has_body and bool(coding),
        may_follow=found[1] == b"1"
        and not closes
        and length < math.inf
        and not (lengths and coding),
    )


async def read_body(reader: asyncio.StreamReader, head: Head) -> AsyncGenerator[bytes, None]:
    """The body behind a head, as it comes; raises BROKEN."""
    left = head.length
    while left or head.is_chunked:
        if not left:
            first = _CHUNK.fullmatch(await reader.readuntil(b"\r\n"))
            if first is None:
                raise _wrong()
            left = int(first[1], 16)
            if not left:
                while await reader.readuntil(b"\r\n") != b"\r\n":
                    pass  # trailers
                return
        data = await reader.read(int(min(left, _READ_BYTES)))
        if not data:
            if left == math.inf:
                return
            raise EOFError("it closed the connection")
        left -= len(data)
        yield data
        if head.is_chunked and not left and await reader.readexactly(2) != b"\r\n":
            raise _wrong()


def _wrong() -> ValueError:
    return ValueError("what it sent is no answer of HTTP/1.1")
