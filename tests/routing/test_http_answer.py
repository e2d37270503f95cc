"""Answers of HTTP/1.1: the same however their bytes are divided, and what is none is refused."""

from __future__ import annotations

import asyncio

import pytest

from flaxen.routing.http_answer import BROKEN, Head, read_body, read_head
from tests.server.clients import run

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LONG = b"x" * 70_000


async def read(*pieces: bytes) -> tuple[Head, bytes, bool]:
    """The head and the body of an answer, and whether the body came to its end, from bytes that
    come one piece after the other; then the connection ends."""
    reader, body = asyncio.StreamReader(), b""

    async def come() -> None:
        for piece in pieces:
            reader.feed_data(piece)
            await asyncio.sleep(0)
        reader.feed_eof()

    coming = asyncio.create_task(come())
    try:
        head = await read_head(reader)
        async for chunk in read_body(reader, head):
            body += chunk
    except EOFError:
        return head, body, False
    finally:
        await coming
    return head, body, True


@pytest.mark.parametrize(
    ("raw", "body", "is_whole", "may_follow"),
    [
        (OK + b"Content-Length: 3\r\n\r\nabc", b"abc", True, True),
        (OK + b"content-length: 4\r\n\r\nabc", b"abc", False, True),
        (OK + b"content-length: 70000\r\n\r\n" + LONG, LONG, True, True),
        (OK + b"Connection: Close\r\ncontent-length: 0\r\n\r\n", b"", True, False),
        (b"HTTP/1.0 200\r\ncontent-length: 1\r\n\r\na", b"a", True, False),
        (OK + b"\r\n" + LONG, LONG, True, False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True, True),
        (b"HTTP/1.1 100 C\r\n\r\n" + OK + b"content-length: 1\r\n\r\na", b"a", True, True),
        (CHUNKED + b"3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789", True, True),
        (CHUNKED + b"3\r\nabc\r\n0\r\nTrailer: 1\r\n\r\n", b"abc", True, True),
        (CHUNKED + b"11170\r\n" + LONG + b"\r\n0\r\n\r\n", LONG, True, True),
        (CHUNKED + b"3\r\nabc\r\n", b"abc", False, True),
        (CHUNKED[:-2] + b"content-length: 3\r\n\r\n0\r\n\r\n", b"", True, False),
        (b"HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n", b"", True, True),
    ],
)
def test_any_pieces_are_the_same_answer(
    raw: bytes, body: bytes, is_whole: bool, may_follow: bool
) -> None:
    head, *rest = whole = run(read(raw))
    assert head.status in (200, 204, 304)
    assert (head.may_follow, *rest) == (may_follow, body, is_whole)
    size = max(1, len(raw) // 300)
    for step in (size, 2 * size, 7 * size):
        assert run(read(*(raw[at : at + step] for at in range(0, len(raw), step)))) == whole


def test_headers_are_lower_case_and_stripped() -> None:
    head, *_ = run(read(OK + b"X-A:  1 \r\nx-a:\t\xe9\r\nContent-Length: 0\r\n\r\n"))
    assert head.headers == (("x-a", "1"), ("x-a", "é"), ("content-length", "0"))
    head, *_ = run(read(CHUNKED[:-2] + b"content-length: 3\r\n\r\n0\r\n\r\n"))
    assert head.headers == (("transfer-encoding", "chunked"),)  # the length that does not count


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0\r\n\r\n",
        OK + b"a b: 1\r\n\r\n",
        OK + b"a: 1\r\n b\r\n\r\n",  # a line that goes on
        OK + b"a: 1\nb: 2\r\n\r\n",
        OK + b"a: \0\r\n\r\n",
        OK + b"content-length: -1\r\n\r\n",
        OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\na",
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        OK + b"a: " + LONG,
        CHUNKED + b"x\r\n",
        CHUNKED + b"1\r\naX1\r\n",
        CHUNKED + b"1;x=" + LONG,
    ],
)
def test_what_is_no_answer(raw: bytes) -> None:
    with pytest.raises(BROKEN, match=r"no answer of HTTP/1\.1|chunk (exceed|is longer)"):
        run(read(raw))
