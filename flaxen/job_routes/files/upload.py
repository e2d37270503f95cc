"""Streams a multipart upload from the network to disk, never whole in memory.

Knows: multipart/form-data, sizes, timeouts. Deliberately does not know the contents of files.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from flaxen.server.errors import ApiError, invalid

_MAX_PARTS = 16
_MAX_FIELD_BYTES = 1024  # the most bytes of a part other than the file
_MAX_NAME = 255  # characters


class Sink(Protocol):
    """The destination of the file's bytes."""

    def write(self, data: bytes) -> None: ...


class UploadForm:
    """Parses a multipart body: its fields, and one file named "file", whose bytes go to `sink`.

    Raises:
      ApiError: 400, there are too many or too large parts.
    """

    def __init__(self, boundary: bytes, sink: Sink) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None  # printable text
        self.is_complete = False
        self._sink = sink
        self._num_parts = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    def write(self, data: bytes) -> None:
        """Parses the next bytes of the body."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise invalid(f"the body is not valid multipart/form-data: {error}") from None

    def _begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > _MAX_PARTS:
            raise invalid(f"the form has more than {_MAX_PARTS} parts")
        self._headers: dict[bytes, bytes] = {}
        self._key, self._value = b"", b""
        self._content = b""
        self._name, self._is_file = "", False

    # The parser limits the size of both.
    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._key += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._key.lower()] = self._value
        self._key, self._value = b"", b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = _printable(options.get(b"name", b""))
        if not self._name:
            raise invalid("a part of the form has no name")
        self._is_file = self._name == "file"
        if self._is_file:
            if self.filename is not None:
                raise invalid("the form has more than one file: send one at a time", "file")
            if b"filename" not in options:
                raise invalid("the part 'file' must be a file, with a filename", "file")
            self.filename = _printable(options[b"filename"]) or "file"

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._sink.write(data[start:end])
            return
        self._content += data[start:end]
        if len(self._content) > _MAX_FIELD_BYTES:
            raise invalid(
                f"the field {self._name!r} is larger than {_MAX_FIELD_BYTES} bytes", self._name
            )

    def _end(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._content.decode("utf-8", "replace")

    def _finish(self) -> None:
        self.is_complete = True


async def read_form(http: Request, sink: Sink, *, max_bytes: int, idle_s: float) -> UploadForm:
    """Reads a request's multipart body.

    Args:
      http: the request.
      sink: gets the file's bytes; its errors are raised unchanged.
      max_bytes: the most bytes of the file; a body that declares more is refused before it is read.
      idle_s: the most seconds between two pieces.

    Raises:
      ApiError: 400 the body is invalid, 408 too slow, 413 too large, 415 wrong content-type.
    """
    kind, options = parse_options_header(http.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ApiError(
            415,
            "a file is uploaded as multipart/form-data, with a boundary; got "
            f"{kind.decode('latin-1')[:80] or 'no content-type'}",
            code="unsupported_media_type",
        )
    length = http.headers.get("content-length", "")
    if len(length) > 18 or (length.isdigit() and int(length) > max_bytes + 2**20):
        raise too_large(max_bytes)
    try:
        form = UploadForm(options[b"boundary"], sink)
    except FormParserError as error:
        raise invalid(f"the boundary in the content-type is not valid: {error}") from None
    stream = http.stream()
    while True:
        try:
            async with asyncio.timeout(idle_s):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise ApiError(
                408, f"nothing of the file came for {idle_s:g} seconds", code="body_timeout"
            ) from None
        if chunk is None:
            break
        await asyncio.to_thread(form.write, chunk)
    if not form.is_complete:
        raise invalid("the body ends before its last boundary: the upload was cut off")
    return form


def too_large(max_bytes: int) -> ApiError:
    """A 413 that names the limit."""
    return ApiError(
        413,
        f"the file is larger than {max_bytes} bytes, the most this server takes: split it, or "
        "start the server with a larger --max-file-size",
        code="file_too_large",
    )


def _printable(value: bytes) -> str:
    text = value.decode("utf-8", "replace")
    return "".join(letter for letter in text if letter.isprintable())[:_MAX_NAME]
