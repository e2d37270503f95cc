"""Masks personal data in the texts of a request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flaxen.router.plugins.reply import Json
from flaxen.router.signals.found import Entity

# What is said in a conversation; tools' definitions and parameters are not in these fields.
_SPOKEN = ("messages", "input", "prompt", "system", "instructions")
# Below them, fields whose texts are names, addresses and files, which a mask would break.
_KEPT = {
    "role", "type", "id", "call_id", "tool_call_id", "tool_use_id", "name", "url", "image_url",
    "file_id", "file_data", "data", "media_type", "format", "detail", "signature", "status",
    "encrypted_content",
}  # fmt: skip


def masked(body: Json, entities: Sequence[Entity]) -> tuple[Json, tuple[Entity, ...]]:
    """A body in which each text that was found is replaced by its kind, as [EMAIL_ADDRESS],
    wherever it stands in the conversation.

    Returns:
      The body, and what of the entities is nowhere in it, so that it may still be there in another
      form.
    """
    kinds = {entity.text: entity.kind for entity in entities if entity.text}
    if not kinds:
        return body, tuple(entities)
    longest_first = sorted(kinds, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    seen: set[str] = set()

    def replace(match: re.Match[str]) -> str:
        seen.add(match[0])
        return f"[{kinds[match[0]]}]"

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(replace, value)
        if isinstance(value, list):
            return [walk(each) for each in value]
        if isinstance(value, Mapping):
            return {k: v if k in _KEPT else walk(v) for k, v in value.items()}
        return value

    changed = {k: walk(v) if k in _SPOKEN else v for k, v in body.items()}
    covered = "\n".join(seen)  # a text inside a longer one is replaced with it
    return changed, tuple(each for each in entities if not each.text or each.text not in covered)
