"""The description of one route, without any logic of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Schema = Mapping[str, Any]

JSON = "application/json"
EVENTS = "text/event-stream"
TEXT = "text/plain"
BYTES = "application/octet-stream"
# The errors of a route that reads a body: see docs/server.md.
BODY_ERRORS = (400, 404, 408, 413, 415, 429, 500, 503)
ENGINE_ERRORS = (*BODY_ERRORS, 504)  # of one that computes

PLAIN: Mapping[str, Schema] = {TEXT: {"type": "string"}}
PAGING: Mapping[str, Schema] = {
    "after": {"type": "string"},
    "limit": {"type": "integer", "minimum": 0, "maximum": 100},
}


def ref(name: str) -> Schema:
    """A reference to one of the document's schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def json_of(name: str) -> Mapping[str, Schema]:
    """An answer of JSON that is one of the document's schemas."""
    return {JSON: ref(name)}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A route: what it does, what it reads, what it answers.

    The answer is one of `answers`, by content type; errors are OpenAI's JSON, unless
    `error` names another schema.
    """

    summary: str
    body: Schema | None = None  # None: the body is not read
    body_type: str = JSON
    answers: Mapping[str, Schema] = field(default_factory=dict)
    errors: tuple[int, ...] = (500,)
    error: str = "Error"
    query: Mapping[str, Schema] = field(default_factory=dict)
    is_open: bool = False  # whether it needs no key


def reading(summary: str, body: Schema, answers: Mapping[str, Schema]) -> Operation:
    """An operation that reads a body, and computes nothing."""
    return Operation(summary=summary, body=body, answers=answers, errors=BODY_ERRORS)
