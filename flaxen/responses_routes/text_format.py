"""`text.format`, which says what a response must look like, as the `response_format` of chats.

Deliberately does not know: what a structure is, how it is followed.
"""

from __future__ import annotations

from typing import Any

from flaxen.server.errors import invalid


def with_response_format(body: dict[str, Any]) -> dict[str, Any]:
    """The body with its `text.format` as a `response_format`, which is read for all routes.

    Raises:
      ApiError: 400, the body has a `response_format` itself.
    """
    if body.get("response_format") is not None:
        raise invalid(
            "response_format is a field of /v1/chat/completions: here it is text.format",
            "response_format",
            "unknown_parameter",
        )
    text = body.get("text")
    asked = text.get("format") if isinstance(text, dict) else None
    if not isinstance(asked, dict):
        return body
    if asked.get("type") == "json_schema":
        schema = {name: value for name, value in asked.items() if name != "type"}
        asked = {"type": "json_schema", "json_schema": schema}
    return {**body, "response_format": asked}
