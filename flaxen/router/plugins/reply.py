"""Reply: an answer that no model gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]
# ASCII only: some readers of event streams also break lines at U+2028 and similar characters.
to_json = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
_TYPES = {400: "invalid_request_error", 403: "permission_error", 503: "api_error"}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer that is sent at once: its status, body, type of content and further headers."""

    body: bytes
    status: int = 200
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def error_reply(api: str, status: int, message: str, code: str) -> Reply:
    """An error in the form of an API: Anthropic's for messages, else OpenAI's."""
    error: dict[str, Any] = {"type": _TYPES[status], "message": message}
    if api == "messages":
        return Reply(body=to_json({"type": "error", "error": error}).encode(), status=status)
    error |= {"param": None, "code": code}
    return Reply(body=to_json({"error": error}).encode(), status=status)


class PluginError(ValueError):
    """A plugin can't do to a request what the configuration says; the client gets status 400."""
