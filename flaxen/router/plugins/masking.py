"""Masks personal data in the texts of a request."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flaxen.router.plugins.reply import Json
from flaxen.router.signals.found import Entity

# The fields with what is said in a conversation; definitions of tools are not among them.
_SPOKEN = ("messages", "input", "prompt", "system", "instructions")
# Below them, fields whose texts are names, addresses and files, which a mask would break; but for
# what a tool was given, whose fields are anybody's.
_KEPT = {
    *("role", "type", "id", "call_id", "tool_call_id", "tool_use_id", "name", "url", "image_url"),
    *("file_id", "file_data", "data", "media_type", "format", "detail", "signature", "status"),
    "encrypted_content",
}
_GIVEN = ("input", "arguments")


def masked(body: Json, entities: Sequence[Entity]) -> tuple[Json, tuple[Entity, ...]]:
    """A body in which each text that was found is replaced by its kind, as [EMAIL_ADDRESS],
    wherever it stands in the conversation.

    Returns:
      The body, and what of the entities is nowhere in it, so that it may still be there in another
      form.
    """
    kinds = {form: each.kind for each in entities for form in _forms(each.text)}
    if not kinds:
        return body, tuple(entities)
    longest_first = sorted(kinds, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    seen: set[str] = set()

    def replace(match: re.Match[str]) -> str:
        seen.add(match[0])
        return f"[{kinds[match[0]]}]"

    def walk(value: Any, kept: Collection[str]) -> Any:
        if isinstance(value, str):
            return pattern.sub(replace, value)
        if isinstance(value, list):
            return [walk(each, kept) for each in value]
        if isinstance(value, Mapping):
            return {
                k: v if k in kept else walk(v, () if k in _GIVEN else kept)
                for k, v in value.items()
            }
        return value

    changed = {k: walk(v, _KEPT) if k in _SPOKEN else v for k, v in body.items()}
    covered = "\n".join(seen)  # a text inside a longer one is replaced with it
    missing = [each for each in entities if not any(f in covered for f in _forms(each.text))]
    return changed, tuple(missing)


def _forms(text: str) -> set[str]:
    """A text, and as it stands inside JSON that is a text itself, such as a call's arguments."""
    escaped = (json.dumps(text, ensure_ascii=each)[1:-1] for each in (True, False))
    return {text, *escaped} if text else set()
