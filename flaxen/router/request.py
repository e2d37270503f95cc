"""RoutedRequest: what signals and decisions read of a request, whichever API it came by.

Knows: the roles of messages and the texts that signals are defined over. Deliberately does not
know: JSON, and the APIs (requests/).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

NO_TOOL_CHOICE = ""


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call of a tool that an assistant made: its id, the tool's name, and the arguments as the
    text that the client sent (JSON, or the free text of a custom tool)."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message of a conversation.

    Attributes:
      role: user, assistant, system, developer or tool (the result of a call), or as the client
        has it.
      text: its parts of text, joined by a space.
      num_images, num_audio, num_videos: how many parts of these kinds it has.
      tool_calls: the calls that it makes (assistant).
      tool_call_id: the call that it answers (tool).
    """

    role: str
    text: str = ""
    num_images: int = 0
    num_audio: int = 0
    num_videos: int = 0
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool that the client offers: its name, and its definition as the client sent it."""

    name: str
    definition: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RoutedRequest:
    """What a router reads of a request, parsed once from the body of any API.

    Attributes:
      api: chat, completions, responses, messages or embeddings.
      model: the model that the client asked for.
      messages: the conversation in its order. A prompt of completions, and what is to be embedded,
        is one user message.
      tools: the tools that the client offers.
      tool_choice: "auto", "none", "required" (a tool that is named is required as well), or "" if
        the client says nothing.
      response_format: the structure that the answer must have, as the client sent it.
      max_tokens: the most tokens of the answer, if the client says so.
      metadata: the client's own pairs. Anybody can send any.
      headers: the HTTP headers, with lower-case names. Which are trusted is configured.
      previous_response_id, conversation_id: the response or the conversation on the server that
        this one continues; "" if none. Its messages are not in `messages`.
      user: the end user, as the client names them; "" if it does not.
      unread: what no text signal reads (files, token ids, items of unknown types, messages of
        unknown roles), by its type, sorted, each once. A decision over such a request says so.
    """

    api: str
    model: str
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: str = NO_TOOL_CHOICE
    response_format: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    previous_response_id: str = ""
    conversation_id: str = ""
    user: str = ""
    unread: tuple[str, ...] = ()

    @property
    def num_tools(self) -> int:
        return len(self.tools)

    @cached_property
    def modalities(self) -> frozenset[str]:
        """Which of text, image, audio and video the messages bring."""
        return frozenset(
            name
            for name, is_there in (
                ("text", any(message.text for message in self.messages)),
                ("image", any(message.num_images for message in self.messages)),
                ("audio", any(message.num_audio for message in self.messages)),
                ("video", any(message.num_videos for message in self.messages)),
            )
            if is_there
        )

    @cached_property
    def _user_texts(self) -> tuple[str, ...]:
        return tuple(m.text for m in self.messages if m.role == "user" and m.text)

    @property
    def current_user(self) -> str:
        """The text of the last user message that has one; "" if none has."""
        return self._user_texts[-1] if self._user_texts else ""

    @property
    def prior_user(self) -> tuple[str, ...]:
        """The texts of the user messages before the current one, in their order."""
        return self._user_texts[:-1]

    @cached_property
    def non_user(self) -> tuple[str, ...]:
        """The texts of system, developer and assistant messages. Results of tools are not in it."""
        roles = ("system", "developer", "assistant")
        return tuple(m.text for m in self.messages if m.role in roles and m.text)

    @cached_property
    def evaluation_text(self) -> str:
        """The text that signals classify: the current user's, else all that is not a user's."""
        return self.current_user or " ".join(self.non_user)

    @property
    def has_assistant_reply(self) -> bool:
        """Whether an assistant has answered with text before."""
        return any(m.role == "assistant" and m.text for m in self.messages)


def num_json_bytes(value: object) -> int:
    """The bytes of a value as compact JSON in UTF-8; half a surrogate pair counts one."""
    return len(
        json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    )
