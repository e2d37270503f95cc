"""The fields of the bodies of /v1/responses, and what the server can't do of them.

The sampling fields are those of the routes that generate. Deliberately does not know items, tools
or limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from flaxen.server.errors import invalid, unsupported
from flaxen.server.generation.fields_without_effect import (
    CACHE_OPTIONS,
    CHAT,
    Rule,
    holds_at_most,
)
from flaxen.server.schema import Metadata, StrictBody, Whole, whole

LOGPROBS = "message.output_text.logprobs"
# Reasoning is in its item in plain text, so a client that keeps its own history has it anyway.
INCLUDES = (
    LOGPROBS,
    "reasoning.encrypted_content",
    # No response here has the items of these, so nothing is left out.
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
)


class TextOptions(StrictBody):
    """OpenAI's `text`."""

    format: dict[str, Any] | None = None  # read by text_format.py
    verbosity: Literal["medium"] | None = None  # the model has no such control


class ReasoningOptions(StrictBody):
    """OpenAI's `reasoning`. Fields with one value are those that have no effect with it."""

    effort: str | None = None
    summary: Literal["auto", "detailed"] | None = None  # reasoning is shown whole
    generate_summary: Literal["auto", "detailed"] | None = None  # its older name
    context: Literal["auto"] | None = None  # the chat template decides
    mode: Literal["standard"] | None = None


class ResponseBody(StrictBody):
    """The fields that only /v1/responses has."""

    input: Any  # read in items.py
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[Any] | None = None  # read in tools.py
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Whole | None = None  # of tools that a server runs itself: there are none
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    max_output_tokens: Whole | None = None
    truncation: Literal["auto", "disabled"] | None = None
    top_logprobs: Whole | None = None
    include: list[str] | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    background: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None  # vLLM's, as the next one
    thinking_token_budget: Whole | None = None


def _nothing(value: Any) -> bool:
    return False


def _is(wanted: Any) -> Any:
    return lambda value: type(value) is type(wanted) and value == wanted


_ONE = "a response is one answer: send several requests"
_TOKEN_IDS = "responses have no token ids: /v1/chat/completions has"
WITHOUT_EFFECT: Mapping[str, Rule] = {
    **{
        name: CHAT[name]
        for name in (
            "service_tier", "mm_processor_kwargs", "vllm_xargs", "kv_transfer_params",
        )
    },
    "conversation": Rule(
        _nothing, "there are no conversations here: previous_response_id continues a response"
    ),
    "prompt": Rule(_nothing, "there are no stored prompts here: send instructions and input"),
    "context_management": Rule(
        lambda value: value == [], "contexts are not compacted: truncation='auto' drops old turns"
    ),
    "client_metadata": Rule(lambda value: isinstance(value, dict), "it must be an object"),
    "moderation": Rule(_nothing, "this server judges no texts"),
    "access_programs": Rule(_nothing, "there are none here"),
    "image": Rule(holds_at_most(context_compression="auto"), "the model reads text only"),
    "background_options": Rule(
        holds_at_most(completion_window="soonest"), "each response runs as soon as it can"
    ),
    "prompt_cache_options": CACHE_OPTIONS,
    "stream_options": Rule(
        holds_at_most(include_obfuscation=False), "this server does not pad its events"
    ),
    "n": Rule(lambda value: whole(value) == 1 and value is not True, _ONE),
    "best_of": Rule(lambda value: whole(value) == 1 and value is not True, _ONE),
    "prompt_logprobs": Rule(_nothing, "responses have none: /v1/chat/completions has"),
    "logprob_token_ids": Rule(_nothing, "responses have none: /v1/chat/completions has"),
    "truncate_prompt_tokens": Rule(_nothing, "truncation='auto' drops old turns"),
    "truncation_side": Rule(_nothing, "truncation='auto' drops old turns"),
    "return_token_offsets": Rule(_is(False), _TOKEN_IDS),
    "return_token_ids": Rule(_is(False), _TOKEN_IDS),
    "return_tokens_as_token_ids": Rule(_is(False), _TOKEN_IDS),
}  # fmt: skip


def check_body(body: ResponseBody) -> None:
    """Checks what no type says.

    Raises:
      ApiError: 400, a field has a value that is not supported, or two contradict each other.
    """
    includes = body.include or []
    for i, name in enumerate(includes):
        if name not in INCLUDES:
            raise unsupported(
                f"include[{i}] = {name[:80]!r} is refused: it must be one of {', '.join(INCLUDES)}",
                f"include[{i}]",
            )
    if body.top_logprobs and LOGPROBS not in includes:
        raise invalid(f"top_logprobs needs include=[{LOGPROBS!r}]", "top_logprobs")
    if body.background and body.store is False:
        raise invalid(
            "background can only be used when `store` is true: a response that nobody waits for is "
            "asked for later",
            "background",
        )
    if body.max_tool_calls is not None and body.max_tool_calls < 0:
        raise invalid(
            f"max_tool_calls must be at least 0, got {body.max_tool_calls}", "max_tool_calls"
        )
