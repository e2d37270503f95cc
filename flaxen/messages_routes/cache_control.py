"""Anthropic's `cache_control`: for how long the prefix of a request is kept.

Prefixes are cached wherever they end, so that a mark says only how long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_TTL_S = {"5m": 300, "1h": 3600}


def retention_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The longest time that a mark asks for, as fields of a chat; {} without a mark.

    Args:
      fields: of the body; what is no mark of Anthropic's is left to those who read its place.
    """
    ttls = [_TTL_S.get(str(mark.get("ttl") or "5m"), 0) for mark in _marks(fields)]
    return {"retention": {"ttl_s": max(ttls)}} if any(ttls) else {}


def _marks(fields: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    messages = _objects(fields.get("messages"))
    places = [fields, *_objects(fields.get("system")), *_objects(fields.get("tools"))]
    for message in messages:
        for block in _objects(message.get("content")):
            places += [block, *_objects(block.get("content"))]
    for place in places:
        if isinstance(mark := place.get("cache_control"), dict):
            yield mark


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
