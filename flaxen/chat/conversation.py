"""A conversation: its messages, the sampling of its answers, and its file.

A file is one line of JSON, {"messages": [...]}, which flaxen train reads. Deliberately does not
know the terminal, nor where answers come from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flaxen.chat.answers import Message

_ROLES = ("system", "user", "assistant")


@dataclass(kw_only=True)
class Conversation:
    """What was said so far, and how the next answer is asked for. Changed in place."""

    system: str | None = None  # the first message, if any
    messages: list[Message] = field(default_factory=list)  # the user's and the assistant's
    sampling: dict[str, Any] = field(default_factory=dict)  # fields of SamplingParams
    file: Path | None = None  # where this conversation was saved, or loaded from

    @property
    def asked(self) -> list[Message]:
        """All messages, as the model gets them."""
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*first, *self.messages]

    @property
    def ends_with_answer(self) -> bool:
        """Whether the last message is the assistant's."""
        return bool(self.messages) and self.messages[-1]["role"] == "assistant"

    def add(self, role: str, text: str) -> None:
        """Adds a message."""
        self.messages.append({"role": role, "content": text})

    def extend_answer(self, text: str) -> None:
        """Adds text to the last message."""
        last = self.messages[-1]
        self.messages[-1] = {**last, "content": last["content"] + text}

    def reset(self) -> None:
        """Forgets the messages, but for the system message."""
        self.messages.clear()
        self.file = None

    def save(self, path: Path) -> None:
        """Writes the conversation to a new file, or again to its own.

        Raises:
          ValueError: there is nothing to save, or the file is not this conversation's.
          OSError: the file can't be written.
        """
        path = Path(os.path.expanduser(path))
        if not self.messages:
            raise ValueError("nothing was said yet: there is nothing to save")
        if path.exists() and path != self.file:
            raise ValueError(f"{path} exists and is not of this conversation: name another file")
        line = json.dumps({"messages": self.asked}, ensure_ascii=False)
        path.write_text(line + "\n", encoding="utf-8")
        self.file = path

    def load(self, path: Path) -> None:
        """Replaces the conversation by a file's.

        Raises:
          ValueError: the file does not hold one conversation.
          OSError: the file can't be read.
        """
        path = Path(os.path.expanduser(path))
        messages = _read(path)
        is_first = messages[0]["role"] == "system"
        self.system = messages[0]["content"] if is_first else None
        self.messages[:] = messages[is_first:]
        self.file = path


def _read(path: Path) -> Sequence[Message]:
    wanted = 'one line of JSON, {"messages": [{"role": "user", "content": "..."}, ...]}'
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        records = [json.loads(line) for line in lines]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no conversation: {error}. It must be {wanted}") from None
    if len(records) != 1:
        raise ValueError(
            f"{path} holds {len(records)} records: put the conversation to go on with into a file "
            f"of its own, {wanted}"
        )
    messages = records[0].get("messages") if isinstance(records[0], dict) else None
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise ValueError(
            f"{path} is no conversation of text messages by {', '.join(_ROLES)}: it must be "
            f"{wanted}"
        )
    if any(message["role"] == "system" for message in messages[1:]):
        raise ValueError(f"{path} has a system message after others: only the first may be one")
    return [{"role": each["role"], "content": each["content"]} for each in messages]


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("role") in _ROLES
        and isinstance(value.get("content"), str)
    )
