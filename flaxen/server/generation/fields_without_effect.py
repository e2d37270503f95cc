"""Fields of OpenAI, vLLM and llama.cpp that are not supported, accepted where they change nothing.

Knows: each such field, the values that change nothing here, and why others are refused.
Deliberately does not know the supported fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flaxen.server.errors import unsupported
from flaxen.server.schema import shorten, whole


@dataclass(frozen=True)
class Rule:
    """Which values of a field have no effect, and why others are refused."""

    has_no_effect: Callable[[Any], bool]  # for a value that is not null; null never has an effect
    why: str  # why other values are refused


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


def holds_at_most(**allowed: Any) -> Callable[[Any], bool]:
    """Whether an object has no other fields, with no other values; null counts as not there."""

    def check(value: Any) -> bool:
        return isinstance(value, dict) and all(
            each is None or each == allowed.get(name) for name, each in value.items()
        )

    return check


def _never(value: Any) -> bool:
    return False


_NO_PLUGINS = "the server runs nothing that a request names"
_TEXT_ONLY = "the model reads text only"
# Marks the end of a prefix to cache, for servers without automatic prefix caching.
CACHE_CONTROL = Rule(_is(dict), "it must be an object (prefixes are cached with or without it)")
CACHE_RETENTION = Rule(
    _one_of("in_memory", "in-memory"), "only chats and completions keep prefixes for a time"
)
CACHE_OPTIONS = Rule(
    holds_at_most(mode="implicit", ttl="30m", prewarm=False),
    "prefixes are cached by themselves, for as long as there is room",
)

_OPENAI = {
    "user": Rule(_is(str), "it must be a string"),
    "safety_identifier": Rule(_is(str), "it must be a string"),
    "prompt_cache_key": Rule(
        _is(str), "it must be a string (prefixes are cached with or without it)"
    ),
    "prompt_cache_options": CACHE_OPTIONS,
    "moderation": Rule(_never, "this server judges no texts"),
    "metadata": Rule(_is(dict), "it must be an object"),
    "store": Rule(_bool(False), "this server stores no completions"),
    "service_tier": Rule(_one_of("auto", "default"), "this server has one tier only"),
}

# Clients made for vLLM send its fields with their default values.
_VLLM = {
    "early_stopping": Rule(_bool(False), "a beam search ends when its beams have"),
    "detokenize": Rule(_bool(True), "the answer is always text; return_token_ids adds its tokens"),
    # No spaces are ever added there, which is what both values mean with today's tokenizers.
    "spaces_between_special_tokens": Rule(_is(bool), "it must be true or false"),
    "guided_decoding_backend": Rule(
        _one_of("auto", "guidance"), "grammars are followed by llguidance alone"
    ),
    "logits_processors": Rule(_empty, _NO_PLUGINS),
    "vllm_xargs": Rule(_empty, _NO_PLUGINS),
    "kv_transfer_params": Rule(_empty, "keys and values are not moved between servers"),
    "ec_transfer_params": Rule(_empty, _TEXT_ONLY),
    "stream_interval": Rule(_number(1), "each token is sent as it comes"),
    "thinking_token_budget": Rule(_number(-1), "only chats tell thoughts from the answer"),
    "watermarking": Rule(_bool(False), "this server puts no marks into texts"),
    "routed_experts_prompt_start": Rule(_number(0), "the chosen experts are not returned"),
    "return_assistant_tokens_mask": Rule(_bool(False), "which tokens are answers is not told"),
    "return_mm_kwargs": Rule(_is(bool), "it must be true or false"),  # a field of another route
}

# Clients made for llama.cpp send its samplers with the values that turn them off.
LLAMA_CPP = {
    "id_slot": Rule(_whole, "it must be a whole number (any place computes the same)"),
    "return_progress": Rule(_bool(False), "nothing is told before the first token"),
    "samplers": Rule(_never, "the order is fixed: temperature, top_k, top_p, min_p"),
    "mirostat": Rule(_number(0), "it is not supported"),
    "typical_p": Rule(_number(1), "it is not supported"),
    "top_n_sigma": Rule(_number(-1), "it is not supported"),
    "xtc_probability": Rule(_number(0), "it is not supported"),
    "dry_multiplier": Rule(_number(0), "it is not supported"),
    "dynatemp_range": Rule(_number(0), "it is not supported"),
    "lora": Rule(_empty, "an adapter is chosen by its name, in model"),
    # Without the samplers that they belong to, these change nothing.
    **{
        name: Rule(lambda value: True, "")
        for name in (
            "mirostat_tau", "mirostat_eta", "xtc_threshold", "dynatemp_exponent", "dry_base",
            "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers",
        )
    },
}  # fmt: skip

COMPLETION = {
    **_OPENAI,
    **_VLLM,
    **LLAMA_CPP,
    "suffix": Rule(_empty, "inserting text is not supported"),
}

CHAT = {
    **_OPENAI,
    **{name: rule for name, rule in _VLLM.items() if name != "thinking_token_budget"},
    **LLAMA_CPP,
    "modalities": Rule(lambda value: value == ["text"], "the model answers in text only"),
    "audio": Rule(_is(dict), "it must be an object (it is for modalities that are refused)"),
    "verbosity": Rule(_one_of("medium"), "the model has no such control"),
    "web_search_options": Rule(_never, "this server does not search the web"),
    "mm_processor_kwargs": Rule(_empty, _TEXT_ONLY),
    "media_io_kwargs": Rule(_empty, _TEXT_ONLY),
    "return_prompt_text": Rule(
        _bool(False), "it is not supported; return_token_ids adds the prompt's tokens"
    ),
}

TOKENIZE = {name: CHAT[name] for name in ("mm_processor_kwargs", "media_io_kwargs")}
TOKENIZE_CONTENT = {
    "parse_special": Rule(_bool(True), "texts of special tokens always become these tokens"),
}

STREAM_OPTIONS = {
    "include_obfuscation": Rule(_bool(False), "this server does not pad its events"),
}

# Histories from other servers contain fields of those servers' answers, and clients' own notes.
_CONTINUE = "continue_final_message of the body continues the last message"
_NOT_THIS_ROLE = "only a message of role 'assistant' has it"
MESSAGE = {
    "type": Rule(_one_of("text", "message"), "a message has no other type"),
    "id": Rule(_is(str), "it must be a string"),
    "tool_calls": Rule(_empty, _NOT_THIS_ROLE),
    "tool_call_id": Rule(_never, "only a message of role 'tool' has it"),
    "function_call": Rule(_never, "it was replaced by tool_calls: send a list of calls there"),
    "refusal": Rule(_empty, "a refusal is a message's content here"),
    "audio": Rule(_never, _TEXT_ONLY),
    "annotations": Rule(_empty, _TEXT_ONLY),
    "cache_control": CACHE_CONTROL,
    "reasoning": Rule(_empty, _NOT_THIS_ROLE),
    "reasoning_content": Rule(_empty, _NOT_THIS_ROLE),
    # Copies of the reasoning in another server's format; templates use `reasoning_content`.
    "reasoning_details": Rule(_is(list), "it must be a list"),
    "thinking_blocks": Rule(_is(list), "it must be a list"),
    "provider_specific_fields": Rule(_is(dict), "it must be an object"),
    "prefix": Rule(_bool(False), _CONTINUE),
    "partial": Rule(_bool(False), _CONTINUE),
}

PART = {
    "id": Rule(_is(str), "it must be a string"),
    "index": Rule(_whole, "it must be a whole number"),
    "logprobs": Rule(_is(list), "it must be a list"),
    "cache_control": CACHE_CONTROL,
    "annotations": Rule(_empty, _TEXT_ONLY),
    "citations": Rule(_empty, _TEXT_ONLY),
}


def drop(fields: Mapping[str, Any], rules: Mapping[str, Rule], where: str = "") -> dict[str, Any]:
    """Returns the fields without those that have no effect; `where` is their path, e.g. "a[0].".

    Raises:
      ApiError: 400, a field requests something that the server does not support.
    """
    kept = {}
    for name, value in fields.items():
        rule = rules.get(name)
        if rule is None:
            kept[name] = value
        elif value is not None and not rule.has_no_effect(value):
            param = where + name
            raise unsupported(f"{param} = {shorten(value)} is refused: {rule.why}", param)
    return kept


def drop_inside(fields: Mapping[str, Any], rules: Mapping[str, Rule], where: str) -> dict[str, Any]:
    """The same for an object where null never is a value: its null fields are removed too."""
    return _given(drop(fields, rules, where))


def drop_from_body(fields: Mapping[str, Any], rules: Mapping[str, Rule]) -> dict[str, Any]:
    """The same for a generation route's body, including its stream_options."""
    kept = drop(fields, rules)
    options = kept.get("stream_options")
    if isinstance(options, dict):
        kept["stream_options"] = drop_inside(options, STREAM_OPTIONS, "stream_options.")
    return kept


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
