"""Reads a request's body as a JSON object of bounded size, depth and number of values.

Knows: sizes, timeouts, encodings, JSON. Deliberately does not know any field.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any, NoReturn

from starlette.requests import Request

from flaxen.server.config import ServerConfig
from flaxen.server.errors import ApiError, invalid
from flaxen.server.lanes import Lane

# Nested lists and objects: more than JSON schemas need, and far below Python's recursion limit.
MAX_DEPTH = 256
# Lists and objects in a body. Python creates 100,000 in about 50 ms, and nothing else runs then.
MAX_CONTAINERS = 250_000
# Bytes; a larger body is decoded in a thread, because it would delay every stream.
_LARGE_BODY = 64 * 1024
# A string; one without an end extends to the body's end, so that each byte is read once.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_MAYBE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def body_lane() -> Lane:
    """Makes the lane (one thread) on which a server decodes large bodies."""
    return Lane("their large bodies to be decoded", num_threads=1, max_waiting=64)


# In a request's scope: the body, where a part of the server that came before has decoded it.
DECODED_BODY = "flaxen.decoded_body"


async def read_json(http: Request, config: ServerConfig, lane: Lane) -> dict[str, Any]:
    """Reads the request's body as one JSON object.

    Args:
      http: the request.
      config: the limits of the body's size and of the time it may take.
      lane: a `body_lane`, for large bodies.

    Raises:
      ApiError: 400 not a JSON object, 408 too slow, 413 too large, 415 not declared as plain JSON,
          429 too many large bodies wait.
    """
    decoded: dict[str, Any] | None = http.scope.get(DECODED_BODY)
    if decoded is not None:
        return decoded
    return await decode_body(await read_body(http, config), lane)


async def read_body(http: Request, config: ServerConfig) -> bytes:
    """Reads the request's body as the client sent it.

    Raises:
      ApiError: 408 too slow, 413 too large, 415 not declared as plain JSON.
    """
    # Requiring this type also prevents a web page's forms from calling a local server.
    media_type = http.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(
            415,
            f"the body must be declared as application/json, got {media_type or 'no content-type'}:"
            " send the header 'Content-Type: application/json'",
            code="unsupported_media_type",
        )
    encoding = http.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ApiError(
            415,
            f"a body with content-encoding {encoding!r} is not supported: send it uncompressed",
            code="unsupported_content_encoding",
        )
    try:
        async with asyncio.timeout(config.body_timeout_s):
            return await _read(http, config.max_body_bytes)
    except TimeoutError:
        raise ApiError(
            408,
            f"the body did not arrive within {config.body_timeout_s:g} seconds",
            code="body_timeout",
        ) from None


async def decode_body(body: bytes, lane: Lane) -> dict[str, Any]:
    """Decodes a body as one JSON object, a large one on the lane.

    Raises:
      ApiError: as `decode_json` says; 429 too many large bodies wait.
    """
    if len(body) <= _LARGE_BODY:
        return decode_json(body)
    return await lane.run(lambda: decode_json(body))


async def _read(http: Request, limit: int) -> bytes:
    """Collects the body; a declared length that is too large is refused before reading."""
    length = http.headers.get("content-length", "")
    # int() is slow for very many digits, or fails; no real length has so many.
    if len(length) > 18 or (length.isascii() and length.isdigit() and int(length) > limit):
        raise _too_large(limit)
    chunks, size = [], 0
    async for chunk in http.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than {limit} bytes, the most this server reads: send less at once, "
        "or start the server with a larger --max-body-size",
        code="body_too_large",
    )


def decode_json(body: bytes) -> dict[str, Any]:
    """Decodes a body that must be one JSON object.

    Raises:
      ApiError: 400, the body is not JSON, not an object, nested too deeply, has too many lists and
          objects, or contains half of a surrogate pair.
    """
    num_containers = _count_containers(body)
    if num_containers > MAX_CONTAINERS:
        raise invalid(
            f"the body holds {num_containers} lists and objects, and this server reads at most "
            f"{MAX_CONTAINERS}: send less at once",
            code="too_many_values",
        )
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _invalid_json(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _invalid_json(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # Python limits the digits of an int
        raise invalid(
            f"the body holds a number with too many digits: at most {sys.get_int_max_str_digits()} "
            "are read"
        ) from None
    if num_containers > MAX_DEPTH:
        _check_depth(value)
    if not isinstance(value, dict):
        raise invalid(
            f"the body must be an object, got {_json_type(value)}: send a JSON object of fields",
            code="invalid_type",
        )
    if _MAYBE_SURROGATE.search(body):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise _invalid_json(
                "a string holds half of a surrogate pair (\\ud800 to \\udfff), which is no text"
            ) from None
    return value


def _count_containers(body: bytes) -> int:
    """An upper bound of the lists and objects in a body; exact if it is above the limit."""
    num_brackets = body.count(b"[") + body.count(b"{")
    if num_brackets <= MAX_CONTAINERS:
        return num_brackets
    outside = _STRING.sub(b"", body)  # strings may contain any number of brackets
    return outside.count(b"[") + outside.count(b"{")


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> ApiError:
    return invalid(
        f"the body's lists and objects are nested more than {MAX_DEPTH} deep, the most this server "
        "reads: send a flatter value, or a deep one as a string",
        code="nested_too_deep",
    )


def _refuse_constant(name: str) -> NoReturn:
    raise _invalid_json(f"{name} is not a JSON number")


def _invalid_json(reason: str) -> ApiError:
    return invalid(f"the body is not valid JSON: {reason}", code="invalid_json")


def _json_type(value: Any) -> str:
    """The name of a JSON value's type, with its article."""
    if value is None:
        return "null"
    names = {list: "a list", str: "a string", bool: "a boolean", int: "an integer"}
    return names.get(type(value), "a number")
