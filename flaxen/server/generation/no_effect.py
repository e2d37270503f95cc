"""Fields of OpenAI and vLLM that this server does not act on: accepted where they have no effect.

Knows: each such field, the values that mean what happens anyway, and why others are refused.
Deliberately does not know the fields that the server does act on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flaxen.server.errors import invalid
from flaxen.server.schema import shorten, whole


@dataclass(frozen=True)
class _Idle:
    has_no_effect: Callable[[Any], bool]  # of a value that is not null; null never has one
    why: str  # of other values


def _one_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in values


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _bool(wanted: bool) -> Callable[[Any], bool]:
    return lambda value: value is wanted


def _number(wanted: float) -> Callable[[Any], bool]:
    return lambda value: not isinstance(value, bool) and value == wanted


def _whole(value: Any) -> bool:
    return isinstance(whole(value), int) and not isinstance(value, bool)


def _empty(value: Any) -> bool:
    return isinstance(value, list | dict | str) and not value


def _never(value: Any) -> bool:
    return False


def _is_text_format(value: Any) -> bool:
    return isinstance(value, dict) and _given(value) == {"type": "text"}


_NO_TOOLS = "tool calls are not supported yet"
# The same of messages: a template that shows calls decides itself how.
NO_TOOLS = f"{_NO_TOOLS} where the model's chat template does not show them"
_NO_STRUCTURE = "structured output is not supported yet: only {'type': 'text'} is"
_NO_BEAMS = "beam search is not supported"
_NO_PLUGINS = "the server runs nothing that a request names"
_TEXT_ONLY = "the model reads text only"
# Where a prefix ends that is to be cached, for servers that cache none by themselves.
_CACHE_CONTROL = _Idle(_is(dict), "it must be an object (prefixes are cached with or without it)")

_OPENAI = {
    "user": _Idle(_is(str), "it must be a string"),
    "safety_identifier": _Idle(_is(str), "it must be a string"),
    "prompt_cache_key": _Idle(
        _is(str), "it must be a string (prefixes are cached with or without it)"
    ),
    "prompt_cache_retention": _Idle(
        _one_of("in_memory", "in-memory"), "prefixes are kept in memory only"
    ),
    "metadata": _Idle(_is(dict), "it must be an object"),
    "store": _Idle(_bool(False), "this server stores no completions"),
    "service_tier": _Idle(_one_of("auto", "default"), "this server has one tier only"),
    "response_format": _Idle(_is_text_format, _NO_STRUCTURE),
}

# Clients that know vLLM send its fields at their defaults.
_VLLM = {
    "use_beam_search": _Idle(_bool(False), _NO_BEAMS),
    "length_penalty": _Idle(_number(1), f"it belongs to beam search, and {_NO_BEAMS}"),
    "early_stopping": _Idle(_bool(False), f"it belongs to beam search, and {_NO_BEAMS}"),
    "priority": _Idle(_number(0), "requests are served in the order in which they come"),
    "detokenize": _Idle(_bool(True), "the answer is always text; return_token_ids adds its tokens"),
    # None are ever put there, which is what either value means with today's tokenizers.
    "spaces_between_special_tokens": _Idle(_is(bool), "it must be true or false"),
    "truncate_prompt_tokens": _Idle(
        _never, "a prompt is never cut: send its end, or start the server with a longer length"
    ),
    "logits_processors": _Idle(_empty, _NO_PLUGINS),
    "vllm_xargs": _Idle(_empty, _NO_PLUGINS),
    "kv_transfer_params": _Idle(_empty, "keys and values are not moved between servers"),
    "ec_transfer_params": _Idle(_empty, _TEXT_ONLY),
    "session_id": _Idle(_is(str), "it must be a string"),
    "stream_interval": _Idle(_number(1), "each token is sent as it comes"),
    "thinking_token_budget": _Idle(_number(-1), "thoughts are not told from the answer"),
    "watermarking": _Idle(_bool(False), "this server puts no marks into texts"),
    "routed_experts_prompt_start": _Idle(_number(0), "the chosen experts are not returned"),
    "return_token_offsets": _Idle(_bool(False), "only logprobs of /v1/completions have offsets"),
    "return_mm_kwargs": _Idle(_is(bool), "it must be true or false"),  # of another route
}

COMPLETION = {
    **_OPENAI,
    **_VLLM,
    "suffix": _Idle(_empty, "inserting text is not supported"),
}

CHAT = {
    **_OPENAI,
    **_VLLM,
    "tools": _Idle(_empty, _NO_TOOLS),
    "tool_choice": _Idle(_one_of("none", "auto"), _NO_TOOLS),
    "parallel_tool_calls": _Idle(_is(bool), "it must be true or false"),
    "functions": _Idle(_empty, _NO_TOOLS),
    "function_call": _Idle(_one_of("none", "auto"), _NO_TOOLS),
    "modalities": _Idle(lambda value: value == ["text"], "the model answers in text only"),
    "audio": _Idle(_never, "the model answers in text only"),
    "prediction": _Idle(_never, "predicted output is not supported"),
    "reasoning_effort": _Idle(
        _never, "it is not supported; a template's own switch goes into chat_template_kwargs"
    ),
    "include_reasoning": _Idle(
        _bool(True), "thoughts are not told from the answer, so they can't be left out"
    ),
    "verbosity": _Idle(_one_of("medium"), "the model has no such control"),
    "web_search_options": _Idle(_never, "this server does not search the web"),
    "continue_final_message": _Idle(
        _bool(False), "it is not supported; /v1/completions continues any text"
    ),
    "echo": _Idle(_bool(False), "chat answers hold the answer only; /v1/completions can echo"),
    "documents": _Idle(_empty, "it is not supported: put the documents' text into a message"),
    "mm_processor_kwargs": _Idle(_empty, _TEXT_ONLY),
    "media_io_kwargs": _Idle(_empty, _TEXT_ONLY),
    "return_prompt_text": _Idle(
        _bool(False), "it is not supported; return_token_ids adds the prompt's tokens"
    ),
}

TOKENIZE = {
    name: CHAT[name]
    for name in ("tools", "continue_final_message", "mm_processor_kwargs", "media_io_kwargs")
}

STREAM_OPTIONS = {
    "include_obfuscation": _Idle(_bool(False), "this server does not pad its events"),
}

# Histories that were written by other servers hold what those had put into their answers, and what
# clients noted beside it.
_NOT_THIS_ROLE = "only a message of role 'assistant' has it"
MESSAGE = {
    "type": _Idle(_one_of("text", "message"), "a message has no other type"),
    "id": _Idle(_is(str), "it must be a string"),
    "tool_calls": _Idle(_empty, f"{_NOT_THIS_ROLE}, and {NO_TOOLS}"),
    "tool_call_id": _Idle(_never, f"only a message of role 'tool' has it, and {NO_TOOLS}"),
    "function_call": _Idle(_never, "it was replaced by tool_calls: send a list of calls there"),
    "refusal": _Idle(_empty, "a refusal is a message's content here"),
    "audio": _Idle(_never, _TEXT_ONLY),
    "annotations": _Idle(_empty, _TEXT_ONLY),
    "cache_control": _CACHE_CONTROL,
    "reasoning": _Idle(_empty, _NOT_THIS_ROLE),
    "reasoning_content": _Idle(_empty, _NOT_THIS_ROLE),
    # Copies of the thoughts in another server's own form; templates know `reasoning_content`.
    "reasoning_details": _Idle(_is(list), "it must be a list"),
    "thinking_blocks": _Idle(_is(list), "it must be a list"),
    "provider_specific_fields": _Idle(_is(dict), "it must be an object"),
    "prefix": _Idle(_bool(False), "it is not supported; /v1/completions continues any text"),
    "partial": _Idle(_bool(False), "it is not supported; /v1/completions continues any text"),
}

PART = {
    "id": _Idle(_is(str), "it must be a string"),
    "index": _Idle(_whole, "it must be a whole number"),
    "logprobs": _Idle(_is(list), "it must be a list"),
    "cache_control": _CACHE_CONTROL,
    "annotations": _Idle(_empty, _TEXT_ONLY),
    "citations": _Idle(_empty, _TEXT_ONLY),
}


def drop_idle(
    fields: Mapping[str, Any], idle: Mapping[str, _Idle], where: str = ""
) -> dict[str, Any]:
    """Returns the fields without those that have no effect; `where` leads to them, as "a[0].".

    Raises:
      ApiError: 400, a field asks for something that the server does not do.
    """
    kept = {}
    for name, value in fields.items():
        rule = idle.get(name)
        if rule is None:
            kept[name] = value
        elif value is not None and not rule.has_no_effect(value):
            param = where + name
            raise invalid(
                f"{param} = {shorten(value)} is refused: {rule.why}", param, "unsupported_parameter"
            )
    return kept


def drop_idle_inside(
    fields: Mapping[str, Any], idle: Mapping[str, _Idle], where: str
) -> dict[str, Any]:
    """The same of an object in which null is nowhere a value: its fields that are null go too."""
    return _given(drop_idle(fields, idle, where))


def drop_idle_fields(fields: Mapping[str, Any], idle: Mapping[str, _Idle]) -> dict[str, Any]:
    """The same of a generating route's fields and its stream_options."""
    kept = drop_idle(fields, idle)
    options = kept.get("stream_options")
    if isinstance(options, dict):
        kept["stream_options"] = drop_idle_inside(options, STREAM_OPTIONS, "stream_options.")
    return kept


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
