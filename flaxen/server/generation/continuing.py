"""Continues the last message of a chat: its text is the end of the prompt, and its turn stays open.

Knows: messages as a chat template gets them. Deliberately does not know any template.
"""

from __future__ import annotations

from typing import Any

from flaxen.server.errors import invalid

FIELD = "continue_final_message"
# Stands behind the last message's text while the template renders it. Templates strip texts and
# write what ends a turn, so where the text ends can't be told from the text alone.
_MARK = "[flaxen:continues]"


def check_open(continues: bool | None, add_generation_prompt: bool | None) -> bool:
    """Whether a body's last message is continued.

    Raises:
      ApiError: 400, the body asks for a new turn too.
    """
    if continues and add_generation_prompt:
        raise invalid(
            f"Cannot set both `{FIELD}` and `add_generation_prompt` to True. One continues the "
            "last message, the other begins a new one: leave one of them out",
            FIELD,
        )
    return bool(continues)


def mark_end(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the messages with a mark at the end of the last one's text."""
    *earlier, last = messages
    content = last["content"]
    if isinstance(content, list) and content:
        *parts, part = content
        marked: Any = [*parts, part | {"text": part["text"] + _MARK}]
    else:
        marked = (content or "") + _MARK
    return [*earlier, last | {"content": marked}]


def cut_at_mark(text: str) -> str:
    """Returns the rendered text up to the mark.

    Raises:
      ApiError: 400, the template does not show the last message's text.
    """
    before, mark, _ = text.rpartition(_MARK)
    if not mark:
        raise invalid(
            f"the chat template does not show the text of the last message, so {FIELD} has "
            "nothing to continue: end the messages with one that it shows",
            FIELD,
        )
    return before
