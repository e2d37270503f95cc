"""Renders chats with the model's template, so that no client's chats delay another's.

Deliberately does not know messages, tokens, or how a template is run.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from flaxen.server.errors import invalid
from flaxen.server.lanes import Lane, deadline
from flaxen.text.chat_process import TemplateTimeoutError

_WHAT = "the chat template"
# A chat with more characters goes to the slow lane: sending it to the template's process and back
# takes longer than rendering most chats.
_LARGE_CHAT = 256_000


class Template(Protocol):
    """The interface of flaxen.text.chat.ChatTemplate: renders one chat at a time."""

    @property
    def missing(self) -> str | None:
        """Why it can't render chats; None if it can."""

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Renders a chat.

        Raises:
          TemplateTimeoutError: rendering exceeded the template's time limit.
          ValueError: the template refuses the chat, or exceeded another limit.
        """


class ChatRenderer:
    """Renders chats in two lanes: a quick one, and a slow one for chats that take long. Final.

    A large chat goes to the slow lane at once. A chat that is not done within `quick_s` on the
    quick lane starts again on the slow lane, where it may take `slow_s`. So a small chat only waits
    for other quick chats, whatever else is sent (decision 0181).

    Args:
      make_template: makes a template with its own process, for a time limit in seconds. The first
          is made here, others when they are first needed, at most one for each thread of the lanes.
      quick_s: the most seconds a chat may take on the quick lane.
      slow_s: the most seconds a chat may take on the slow lane.
      timeout_s: the most seconds that a client waits for its chat's text, including the wait for a
          turn.

    Raises:
      ValueError: the template is not valid.
    """

    def __init__(
        self,
        make_template: Callable[[float], Template],
        *,
        quick_s: float = 0.5,
        slow_s: float = 2.0,
        timeout_s: float = 10.0,
    ) -> None:
        self._timeout_s = timeout_s
        self._slow = _Templates(functools.partial(make_template, slow_s), [])
        first = make_template(quick_s)
        self.missing = first.missing  # why chats can't be rendered; None if they can
        self._quick = _Templates(functools.partial(make_template, quick_s), [first])
        # As many clients may begin at once; a chat takes about a millisecond.
        self._quick_lane = Lane(_WHAT, num_threads=2, max_waiting=1024)
        self._slow_lane = Lane(_WHAT, num_threads=1, max_waiting=8)

    async def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        """The chat's text.

        Raises:
          ApiError: 400, the template refuses the chat or exceeded a limit; 429, too many chats
              wait; 503, the chat's turn did not come in time.
        """

        def render_on(templates: _Templates) -> str:
            return templates.render(messages, add_generation_prompt, variables)

        async with deadline("rendering the messages with the chat template", self._timeout_s):
            try:
                if _num_characters(messages, variables) <= _LARGE_CHAT:
                    try:
                        return await self._quick_lane.run(lambda: render_on(self._quick))
                    except TemplateTimeoutError:
                        pass  # the slow lane is next
                return await self._slow_lane.run(lambda: render_on(self._slow))
            except ValueError as error:
                raise invalid(str(error), "messages") from None


class _Templates:
    """Templates with one time limit, one for each thread that renders, made when needed."""

    def __init__(self, make: Callable[[], Template], idle: list[Template]) -> None:
        self._make = make
        self._idle = idle

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        """Renders on the calling thread."""
        try:
            template = self._idle.pop()  # one atomic call, so no other thread gets the same
        except IndexError:
            template = self._make()
        try:
            return template.render(
                messages, add_generation_prompt=add_generation_prompt, **variables
            )
        finally:
            self._idle.append(template)


def _num_characters(messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> int:
    """The approximate size of a chat; each message counts 20 characters besides its content."""
    total = 20 * len(messages) + (len(json.dumps(variables)) if variables else 0)
    for message in messages:
        content = message.get("content") or ""
        parts = content if isinstance(content, list) else [{"text": content}]
        total += sum(len(part["text"]) + 20 for part in parts)
        total += len(message.get("reasoning_content") or message.get("reasoning") or "")
        if calls := message.get("tool_calls"):
            total += len(json.dumps(calls))
    return total
