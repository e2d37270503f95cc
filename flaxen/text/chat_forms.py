"""Renders messages in a form that the template accepts: null or empty content, object or JSON.

Most templates test whether a content is null, and print the arguments of a call as an object. Some
concatenate either with a string, which works only if it is a string. Deliberately does not know:
how a template is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flaxen.text.chat_process import TemplateTimeoutError

Messages = Sequence[Mapping[str, Any]]

_NONE = "None"  # what Jinja prints for a null


def render_form(render: Callable[[Messages], str], messages: Messages) -> str:
    """Renders messages; tries other forms of them if the template fails or prints "None".

    The second try has an empty text in place of each null content of an assistant message, and the
    third has the arguments of tool calls as JSON too.

    Raises:
      ValueError: the template refuses every form; the message says why it refused the first.
    """
    forms = [messages]
    for change in (_with_empty_contents, _with_json_arguments):
        forms += [changed for form in forms if (changed := change(form)) != form]
    refused: ValueError | None = None
    for form in forms:
        try:
            return _without_none(render, form, render(form))
        except TemplateTimeoutError:
            raise  # a timeout says nothing about the forms that the template reads
        except ValueError as error:
            refused = refused or error
    assert refused is not None, "there is at least one form"
    raise refused


def _without_none(render: Callable[[Messages], str], messages: Messages, text: str) -> str:
    """Returns `text`, or, if `text` contains a printed null, the rendering with empty contents."""
    if _NONE not in text or (emptied := _with_empty_contents(messages)) == messages:
        return text
    without = render(emptied)
    return without if without.count(_NONE) < text.count(_NONE) else text


def _with_empty_contents(messages: Messages) -> Messages:
    return [
        {**each, "content": ""}
        if each["role"] == "assistant" and each.get("content", "") is None
        else each
        for each in messages
    ]


def _with_json_arguments(messages: Messages) -> Messages:
    return [
        {**each, "tool_calls": [_with_json(call) for call in each["tool_calls"]]}
        if each.get("tool_calls")
        else each
        for each in messages
    ]


def _with_json(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}
