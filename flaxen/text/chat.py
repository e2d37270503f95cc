"""Messages to the text of a prompt, through the chat template that came with the model.

Knows: OpenAI's messages and content parts, and the variables that templates expect.
Deliberately does not know: how a template is run (chat_process), token ids, HTTP.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flaxen.text.chat_messages import is_silent, joined_parts, template_message
from flaxen.text.chat_process import TemplateProcess

# The variables of a template that are given in other ways than as variables of its own.
RESERVED_VARIABLES = (
    "self", "messages", "tools", "add_generation_prompt", "bos_token", "eos_token",
)  # fmt: skip
# Variables that are printed where {% generation %} begins and ends, as in chat_worker.
GENERATION_BEGINS, GENERATION_ENDS = "flaxen_generation_begins", "flaxen_generation_ends"
_GENERATION = re.compile(r"\{%[-+]?\s*generation\b")
_PROBE = "flaxen-probe"
_NONE = "None"  # what Jinja prints for a null


class ChatTemplate:
    """A model's chat template. Final. Safe to share between threads; they take turns.

    Args:
      source: Jinja, as in a model's chat_template.jinja; None where the model has none.
      bos_token: given to the template; None, for a model without one, is "".
      eos_token: the same.
      timeout_s: seconds that one render may take; then its process is killed.
      max_chars: characters that one render may give.
      max_bytes: memory that one render may take. Enforced on Linux only.

    Raises:
      ValueError: a limit is not above 0, or the template does not compile.
    """

    def __init__(
        self,
        source: str | None,
        *,
        bos_token: str | None,
        eos_token: str | None,
        timeout_s: float = 2.0,
        max_chars: int = 4_000_000,
        max_bytes: int = 512_000_000,
    ) -> None:
        limits = {"timeout_s": timeout_s, "max_chars": max_chars, "max_bytes": max_bytes}
        for name, value in limits.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {value}")
        self._tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        # Whether it says itself what the assistant wrote.
        self.marks_generation = source is not None and _GENERATION.search(source) is not None
        self._reads_parts: bool | None = None  # whether it takes a list as content; found on need
        self._process = (
            TemplateProcess(source, timeout_s=timeout_s, max_chars=max_chars, max_bytes=max_bytes)
            if source
            else None
        )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt's text. It has its special tokens: encode it with add_special_tokens=False.

        Args:
          messages: OpenAI's. A content that is a list of text parts is passed on where the template
            reads lists, and joined by newlines where it does not. The arguments of tool calls may
            be JSON strings, and an assistant's content may be None.
          tools: descriptions of functions, for templates that know of them.
          add_generation_prompt: end with the beginning of the assistant's message.
          **variables: more of the template's own, e.g. enable_thinking.

        Raises:
          ValueError: there is no template, a part is not text, the template refuses the messages
            (with its own message), or a render went over a limit.
        """
        process = self._process
        if not process:
            raise ValueError(
                "the model has no chat template, so messages can't be made into a prompt: give one "
                "(a Jinja file, e.g. the chat_template.jinja of the model it was tuned from), or "
                "send a plain prompt"
            )
        if not messages:
            raise ValueError("messages is empty: send at least one")
        checked = [template_message(i, message) for i, message in enumerate(messages)]
        if any(isinstance(message.get("content"), list) for message in checked):
            if self._reads_parts is None:
                self._reads_parts = self._probe(process)
            if not self._reads_parts:
                checked = [joined_parts(message) for message in checked]

        def render(given: Sequence[Mapping[str, Any]]) -> str:
            return process.render(
                {
                    **self._tokens,
                    **variables,
                    "messages": given,
                    "tools": tools,
                    "add_generation_prompt": add_generation_prompt,
                }
            )

        return _render_silent(render, checked)

    def close(self) -> None:
        """Ends the template's process."""
        if self._process:
            self._process.close()

    def _probe(self, process: TemplateProcess) -> bool:
        """Whether the template reads a list of parts: it shows their text, and not the list."""
        message = {"role": "user", "content": [{"type": "text", "text": _PROBE}]}
        try:
            text = process.render(
                {
                    **self._tokens,
                    "messages": [message],
                    "tools": None,
                    "add_generation_prompt": True,
                }
            )
        except ValueError:
            return False
        return _PROBE in text and "'text'" not in text and '"text"' not in text


def _render_silent(
    render: Callable[[Sequence[Mapping[str, Any]]], str], messages: Sequence[Mapping[str, Any]]
) -> str:
    """Renders messages of which some of the assistant's have the content None.

    Most templates test for None. One that prints it (Jinja writes the word "None"), or that adds it
    to a text and fails, is given an empty text in its place.
    """
    if not any(is_silent(each) for each in messages):
        return render(messages)
    empty = [{**each, "content": ""} if is_silent(each) else each for each in messages]
    try:
        text = render(messages)
    except ValueError:
        return render(empty)
    if _NONE not in text:
        return text
    without = render(empty)
    return without if without.count(_NONE) < text.count(_NONE) else text
