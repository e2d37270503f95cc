"""Messages to the text of a prompt, through the chat template that came with the model.

Knows: OpenAI's messages and content parts, and the variables that templates expect.
Deliberately does not know: how a template is run (chat_process), token ids, HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flaxen.text.chat_process import TemplateProcess

_PROBE = "flaxen-probe"


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
            reads lists, and joined by newlines where it does not.
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
        checked = [_check(i, message) for i, message in enumerate(messages)]
        if any(isinstance(message.get("content"), list) for message in checked):
            if self._reads_parts is None:
                self._reads_parts = self._probe(process)
            if not self._reads_parts:
                checked = [_flatten(message) for message in checked]
        return process.render(
            {
                **self._tokens,
                **variables,
                "messages": checked,
                "tools": tools,
                "add_generation_prompt": add_generation_prompt,
            }
        )

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


def _check(index: int, message: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ValueError(
            f"messages[{index}] must be an object with a role, e.g. "
            f'{{"role": "user", "content": "Hi"}}, got {str(message)[:200]}'
        )
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        for i, part in enumerate(content):
            where = f"messages[{index}].content[{i}]"
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind != "text":
                raise ValueError(
                    f"{where} is of type {kind!r}: this model reads text only; send parts "
                    'like {"type": "text", "text": "Hi"}'
                )
            if not isinstance(part.get("text"), str):
                raise ValueError(f"{where} must have a string as text, got {part.get('text')!r}")
        return {**message, "content": list(content)}
    return dict(message)


def _flatten(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": "\n".join(part["text"] for part in content)}
