"""Renders messages to the text of a prompt with the chat template that came with the model.

Knows: OpenAI's messages and content parts, and the variables that templates expect.
Deliberately does not know: how a template is run (chat_process), token ids, HTTP.
"""

from __future__ import annotations

import functools
import math
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from flaxen.text.chat_forms import render_form
from flaxen.text.chat_messages import joined_parts, template_message
from flaxen.text.chat_process import TemplateProcess, TemplateTimeoutError
from flaxen.text.mentions import mentions
from flaxen.text.tokenizer import Tokenizer

# Variables of a template that callers give as arguments of `render`, not among its variables.
RESERVED_VARIABLES = (
    "self", "messages", "tools", "add_generation_prompt", "bos_token", "eos_token",
)  # fmt: skip
# The variables that mark where a {% generation %} block begins and ends; as in chat_worker.
GENERATION_BEGINS, GENERATION_ENDS = "flaxen_generation_begins", "flaxen_generation_ends"
_GENERATION = re.compile(r"\{%[-+]?\s*generation\b")
_PROBE = "flaxen-probe"
TOOLS_TEMPLATE = "tool_use"  # the name that transformers gives to a template for tools


class ChatTemplate:
    """A model's chat template. Final. Safe to share between threads; they take turns.

    Args:
      source: Jinja, as in a model's chat_template.jinja; None where the model has none.
      bos_token: the template's variable of that name; None, for a model without one, becomes "".
      eos_token: likewise.
      special_tokens: further special tokens, by the names that templates use for them.
      tools_source: the Jinja template for chats with tools; None uses `source` for these too.
      names: the names of the model's other templates, for the error message when `source` is None.
      timeout_s: seconds that one render may take; after that its process is killed.
      max_chars: the most characters that one render may produce.
      max_bytes: the most memory that one render may use. Enforced on Linux only.

    Raises:
      ValueError: a limit is not above 0, or the template does not compile.
    """

    def __init__(
        self,
        source: str | None,
        *,
        bos_token: str | None,
        eos_token: str | None,
        special_tokens: Mapping[str, str | list[str]] = MappingProxyType({}),
        tools_source: str | None = None,
        names: Iterable[str] = (),
        timeout_s: float = 2.0,
        max_chars: int = 4_000_000,
        max_bytes: int = 512_000_000,
    ) -> None:
        limits = {"timeout_s": timeout_s, "max_chars": max_chars, "max_bytes": max_bytes}
        for name, value in limits.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {value}")
        self._tokens = {
            "bos_token": bos_token or "",
            "eos_token": eos_token or "",
            **special_tokens,
        }
        # Whether every template marks the assistant's text with {% generation %}.
        sources = [each for each in (source, tools_source) if each]
        self.marks_generation = bool(sources) and all(map(_GENERATION.search, sources))
        self.missing = None if source else _explain_missing(sorted(names))
        self._start = functools.partial(
            TemplateProcess, timeout_s=timeout_s, max_chars=max_chars, max_bytes=max_bytes
        )
        self._plain = _Compiled(self._start(source), self._tokens) if source else None
        self._source, self._tools_source = source, tools_source
        self._tools: _Compiled | None = None  # started when it is first needed
        self._lock = threading.Lock()  # of `_tools`

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, timeout_s: float = 2.0) -> ChatTemplate:
        """The templates that came with a model, and its special tokens."""
        return cls(
            tokenizer.chat_template,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
            special_tokens=tokenizer.special_tokens,
            tools_source=tokenizer.named_templates.get(TOOLS_TEMPLATE),
            names=tokenizer.named_templates,
            timeout_s=timeout_s,
        )

    def mentions(self, variable: str, *, with_tools: bool) -> bool:
        """Whether the template's source contains the variable's name. If not, it ignores the
        variable.

        Args:
          variable: its name.
          with_tools: whether tools are given.
        """
        return mentions((self._tools_source if with_tools else None) or self._source, variable)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Renders the prompt's text, special tokens included: encode it with
        add_special_tokens=False.

        Args:
          messages: in OpenAI's format. If a content is a list of text parts, a template that reads
              lists gets the list, and any other template gets the parts joined by newlines. The
              arguments of tool calls may be JSON strings, and an assistant's content may be None.
          tools: descriptions of functions, for templates that support tools.
          add_generation_prompt: end the text with the header of the assistant's next message.
          **variables: further variables of the template, e.g. enable_thinking.

        Raises:
          ValueError: there is no template, a part is not text, the template refuses the messages
              (the error has its own words), or a render exceeded a limit.
        """
        compiled = self._plain if tools is None else self._for_tools()
        if compiled is None:
            raise ValueError(self.missing)
        if not messages:
            raise ValueError("messages is empty: send at least one")
        checked = [template_message(i, message) for i, message in enumerate(messages)]
        return compiled.render(
            checked, {**variables, "tools": tools, "add_generation_prompt": add_generation_prompt}
        )

    def close(self) -> None:
        """Ends the template's process."""
        for compiled in (self._plain, self._tools):
            if compiled:
                compiled.process.close()

    def _for_tools(self) -> _Compiled | None:
        if self._tools_source is None:
            return self._plain
        with self._lock:
            if self._tools is None:
                self._tools = _Compiled(self._start(self._tools_source), self._tokens)
            return self._tools


class _Compiled:
    """One template in its process, and which form of content it reads. Final."""

    def __init__(self, process: TemplateProcess, tokens: Mapping[str, Any]) -> None:
        self.process = process
        self._tokens = tokens
        self._reads_parts: bool | None = None  # determined when it is first needed

    def render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """Renders messages in the form that the template reads."""
        if any(isinstance(message.get("content"), list) for message in messages):
            if self._reads_parts is None:
                self._reads_parts = self._probe()
            if not self._reads_parts:
                messages = [joined_parts(dict(message)) for message in messages]

        def render(given: Sequence[Mapping[str, Any]]) -> str:
            return self.process.render({**self._tokens, **variables, "messages": given})

        return render_form(render, messages)

    def _probe(self) -> bool:
        """Whether the template reads lists of parts: it prints their text, and not the list."""
        message = {"role": "user", "content": [{"type": "text", "text": _PROBE}]}
        asks = {"messages": [message], "tools": None, "add_generation_prompt": True}
        try:
            text = self.process.render({**self._tokens, **asks})
        except TemplateTimeoutError:
            raise  # it says nothing about what the template reads
        except ValueError:
            return False
        return _PROBE in text and "'text'" not in text and '"text"' not in text


def _explain_missing(names: list[str]) -> str:
    """The error message for a model that has no default template."""
    if names:
        return (
            f"the model has the chat templates {', '.join(names)} and none named default, so "
            "messages can't be made into a prompt: put the one to use into chat_template.jinja "
            "beside its tokenizer, or send a plain prompt"
        )
    return (
        "the model has no chat template, so messages can't be made into a prompt: give one "
        "(a Jinja file, e.g. the chat_template.jinja of the model it was tuned from), or "
        "send a plain prompt"
    )
