"""Converts prompts of Python callers to requests.

Deliberately does not know: engines, HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from flaxen.output_parsers.described_tools import with_described_tools
from flaxen.protocol import Grammar, Request, SamplingParams
from flaxen.text.chat import ChatTemplate
from flaxen.text.chat_messages import template_message
from flaxen.text.tokenizer import Tokenizer

Prompt = str | Sequence[int] | Mapping[str, Any]  # text, token ids, or {"prompt_token_ids": ids}


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Makes a list of prompts from the argument of `generate`."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    listed: list[Any] = list(prompts)
    if listed and all(_is_int(item) for item in listed):
        return [listed]
    return listed


def for_each_prompt(given: Any, num: int, what: str) -> list[Any]:
    """Makes a list with one item for each prompt, of one item for all or of such a list.

    Args:
      given: sampling parameters, the name of an adapter or None; or a list of these.
      num: the number of prompts.
      what: the items' name, for the message.

    Raises:
      ValueError: the list has another length.
    """
    if given is None or isinstance(given, str | SamplingParams):
        return [given] * num
    listed = list(given)
    if len(listed) != num:
        raise ValueError(
            f"{num} prompts came with {len(listed)} {what}: give one for all, or one for each"
        )
    return listed


def prompt_text(prompt: Prompt) -> str | None:
    """The text of a prompt; None for token ids."""
    given = prompt.get("prompt") if isinstance(prompt, Mapping) else prompt
    return given if isinstance(given, str) else None


def given_prompt(prompt: Prompt) -> str | list[int]:
    """The text of a prompt, or its token ids.

    Raises:
      ValueError: it is neither.
    """
    if isinstance(prompt, Mapping) and set(prompt) not in ({"prompt_token_ids"}, {"prompt"}):
        raise ValueError(
            f"a prompt of keys {sorted(prompt)} is not supported: use 'prompt' or "
            "'prompt_token_ids'"
        )
    text = prompt_text(prompt)
    if text is not None:
        return text
    return _token_ids(prompt.get("prompt_token_ids") if isinstance(prompt, Mapping) else prompt)


def make_request(
    tokenizer: Tokenizer,
    prompt: Prompt,
    sampling: SamplingParams,
    request_id: str,
    adapter: str | None = None,
    make_grammar: Callable[[], Grammar] | None = None,
) -> Request:
    """Makes a request from text or token ids, for an adapter or the base model.

    Raises:
      ValueError: the prompt is empty, or neither text nor token ids.
    """
    given = given_prompt(prompt)
    ids = tokenizer.encode(given) if isinstance(given, str) else given
    return Request(
        request_id=request_id,
        prompt_token_ids=tuple(ids),
        sampling=sampling,
        adapter=adapter,
        grammar=make_grammar,
    )


def _token_ids(given: Any) -> list[int]:
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise ValueError(
            f"a prompt must be text, token ids, {{'prompt': text}} or {{'prompt_token_ids': ids}}, "
            f"got a {type(given).__name__}"
        )
    ids = list(given)
    if all(type(token_id) is int for token_id in ids):  # the usual case, ten times as fast
        return ids
    for token_id in ids:
        if not _is_int(token_id):
            raise ValueError(f"a prompt's token ids must be whole numbers, got {token_id!r}")
    return [int(token_id) for token_id in ids]


def _is_int(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)  # NumPy integers too


def model_template(tokenizer: Tokenizer) -> ChatTemplate:
    """The chat template that came with the model."""
    return ChatTemplate.of(tokenizer)


def chat_prompt(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    **template_variables: Any,
) -> list[int]:
    """Renders a conversation and returns its token ids.

    Args:
      tokenizer: the model's tokenizer.
      template: its chat template.
      messages: in OpenAI's format.
      tools: likewise. A template that shows no tools gets them in the messages.
      chat_template_kwargs: variables of the template; vLLM's name for them.
      **template_variables: the same.

    Raises:
      ValueError: the model has no chat template, or the template refuses the messages.
    """
    given: Sequence[Mapping[str, Any]] = messages
    if tools and not template.mentions("tools", with_tools=True):
        read = [template_message(i, message) for i, message in enumerate(given)]
        given, tools = with_described_tools(read, tools), None
    variables = {**(chat_template_kwargs or {}), **template_variables}
    text = template.render(list(given), tools=tools or None, **variables)
    # The text already has its special tokens.
    return tokenizer.encode(text, add_special_tokens=False)
