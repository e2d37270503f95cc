"""The lines of a batch's input file, and those of its results, as in OpenAI's API.

Deliberately does not know: how a request is answered, or where files are.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxen.server.body import decode_json
from flaxen.server.errors import ApiError
from flaxen.server.schema import shorten
from flaxen.server.sse import to_json

# What a batch may ask, where the application has it.
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
_FIELDS = ("custom_id", "method", "url", "body")
_MAX_ERRORS = 100  # the most lines that are told to be wrong


class LineError(ValueError):
    """A line of an input file is not a request. Final.

    Args:
      param: the wrong field; None for the whole line.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        self.message, self.param = message, param

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """One request of a batch."""

    custom_id: str
    url: str
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What a route answered to a request."""

    status: int
    request_id: str
    body: Any  # JSON


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not empty, with their numbers from 1."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def read_request(line: bytes, endpoints: Collection[str]) -> BatchRequest:
    """Reads a line.

    Args:
      line: of an input file.
      endpoints: the urls that it may have.

    Raises:
      LineError: it is not a request to one of these.
    """
    try:
        fields = decode_json(line)
    except ApiError as error:
        raise LineError(error.message.replace("the body", "the line")) from None
    for name in fields:
        if name not in _FIELDS:
            raise LineError(f"unknown field {name[:80]!r}: a line has {', '.join(_FIELDS)}", name)
    custom_id, url, body = (fields.get(name) for name in ("custom_id", "url", "body"))
    if not isinstance(custom_id, str) or not custom_id:
        raise LineError(f"custom_id must be a string, got {shorten(custom_id)}", "custom_id")
    if fields.get("method") != "POST":
        raise LineError(f"method must be 'POST', got {shorten(fields.get('method'))}", "method")
    if not isinstance(url, str) or url not in endpoints:
        raise LineError(f"url must be {' or '.join(endpoints)}, got {shorten(url)}", "url")
    if not isinstance(body, dict):
        raise LineError(f"body must be an object, got {shorten(body)}", "body")
    if body.get("stream"):
        raise LineError("body.stream must be false: a batch has whole answers", "body.stream")
    return BatchRequest(custom_id=custom_id, url=url, body=body)


def check_file(path: Path, endpoint: str, max_requests: int) -> tuple[int, list[dict[str, Any]]]:
    """The number of a file's requests, and what is wrong with its lines."""
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()

    def wrong(number: int | None, code: str, message: str, param: str | None = None) -> None:
        errors.append({"code": code, "line": number, "message": message, "param": param})

    num_lines = 0
    for number, line in read_lines(path):
        num_lines += 1
        if num_lines > max_requests:
            wrong(number, "too_many_tasks", f"the file has more than {max_requests} requests")
            break
        try:
            request = read_request(line, (endpoint,))
        except LineError as error:
            wrong(number, "invalid_request", str(error), error.param)
        else:
            if request.custom_id in seen:
                text = f"custom_id {shorten(request.custom_id)} is that of an earlier line too"
                wrong(number, "duplicate_custom_id", text, "custom_id")
            seen.add(request.custom_id)
        if len(errors) >= _MAX_ERRORS:
            break
    if not num_lines:
        wrong(None, "empty_file", "the file has no requests")
    return num_lines, errors


def result_line(custom_id: str | None, answered: Answered) -> str:
    """The line of the results for what a route answered."""
    response = {
        "status_code": answered.status,
        "request_id": answered.request_id,
        "body": answered.body,
    }
    return _result(custom_id, response, None)


def error_line(custom_id: str | None, code: str, message: str) -> str:
    """The line of the results for a request that no route answered."""
    return _result(custom_id, None, {"code": code, "message": message})


def _result(custom_id: str | None, response: Any, error: Any) -> str:
    result_id = f"batch_req_{uuid.uuid4().hex[:24]}"
    return to_json({"id": result_id, "custom_id": custom_id, "response": response, "error": error})


def custom_id_of(line: bytes) -> str | None:
    """A line's custom_id, if it has one."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    custom_id = value.get("custom_id") if isinstance(value, dict) else None
    return custom_id if isinstance(custom_id, str) else None
