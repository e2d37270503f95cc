"""OpenAI fields that this server does not act on: accepted only where they ask for nothing.

Knows: each such field, the values that mean what happens anyway, and why others are refused.
Deliberately does not know the fields that the server does act on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flaxen.server.errors import invalid
from flaxen.server.schema import shorten


@dataclass(frozen=True)
class _Idle:
    asks_nothing: Callable[[Any], bool]  # of a value that is not null; null always asks nothing
    why: str  # of other values


def _one_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in values


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _false(value: Any) -> bool:
    return value is False


def _empty_list(value: Any) -> bool:
    return isinstance(value, list) and not value


def _never(value: Any) -> bool:
    return False


_NO_TOOLS = "tool calls are not supported yet"
_NO_STRUCTURE = "structured output is not supported yet: only {'type': 'text'} is"

_COMMON = {
    "user": _Idle(_is(str), "it must be a string"),
    "safety_identifier": _Idle(_is(str), "it must be a string"),
    "prompt_cache_key": _Idle(
        _is(str), "it must be a string (prefixes are cached with or without it)"
    ),
    "metadata": _Idle(_is(dict), "it must be an object"),
    "store": _Idle(_false, "this server stores no completions"),
    "service_tier": _Idle(_one_of("auto", "default"), "this server has one tier only"),
}

COMPLETION = {
    **_COMMON,
    "suffix": _Idle(lambda value: value == "", "inserting text is not supported"),
}

CHAT = {
    **_COMMON,
    "tools": _Idle(_empty_list, _NO_TOOLS),
    "tool_choice": _Idle(_one_of("none", "auto"), _NO_TOOLS),
    "parallel_tool_calls": _Idle(_is(bool), "it must be true or false"),
    "functions": _Idle(_empty_list, _NO_TOOLS),
    "function_call": _Idle(_one_of("none", "auto"), _NO_TOOLS),
    "response_format": _Idle(lambda value: value == {"type": "text"}, _NO_STRUCTURE),
    "modalities": _Idle(lambda value: value == ["text"], "the model answers in text only"),
    "audio": _Idle(_never, "the model answers in text only"),
    "prediction": _Idle(_never, "predicted output is not supported"),
    "reasoning_effort": _Idle(
        _never, "it is not supported; a template's own switch goes into chat_template_kwargs"
    ),
    "verbosity": _Idle(_one_of("medium"), "the model has no such control"),
    "web_search_options": _Idle(_never, "this server does not search the web"),
    "continue_final_message": _Idle(
        _false, "it is not supported; /v1/completions continues any text"
    ),
}

TOKENIZE = {
    "tools": CHAT["tools"],
    "continue_final_message": CHAT["continue_final_message"],
}

STREAM_OPTIONS = {
    "include_obfuscation": _Idle(_false, "this server does not pad its events"),
}

MESSAGE = {
    "tool_calls": _Idle(_empty_list, _NO_TOOLS),
    "tool_call_id": _Idle(_never, _NO_TOOLS),
    "function_call": _Idle(_never, _NO_TOOLS),
    "refusal": _Idle(_never, "a refusal is a message's content here"),
    "audio": _Idle(_never, "the model reads text only"),
    "annotations": _Idle(_empty_list, "the model reads text only"),
}


def drop_idle(
    fields: Mapping[str, Any], idle: Mapping[str, _Idle], where: str = ""
) -> dict[str, Any]:
    """Returns the fields without those that ask for nothing; `where` leads to them, as "a[0].".

    Raises:
      ApiError: 400, a field asks for something that the server does not do.
    """
    kept = {}
    for name, value in fields.items():
        rule = idle.get(name)
        if rule is None:
            kept[name] = value
        elif value is not None and not rule.asks_nothing(value):
            param = where + name
            raise invalid(
                f"{param} = {shorten(value)} is refused: {rule.why}", param, "unsupported_parameter"
            )
    return kept
