"""The fields of the bodies of the routes that generate, and their types.

The bodies of the two generation routes are parsed as two parts, their own fields and the common
ones, so that no class inherits from another. None always means "not given", as in OpenAI's API.
Deliberately does not know limits or engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, field_validator

from flaxen.server.generation.retention_fields import OpenAIRetention, RetentionField
from flaxen.server.schema import StrictBody, Whole, Wholes, parse

_Body = TypeVar("_Body", bound=BaseModel)


class StreamOptions(StrictBody):
    """OpenAI's `stream_options`, with vLLM's continuous usage."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class CommonBody(StrictBody):
    """The common fields of both generation routes: OpenAI's sampling fields, then vLLM's."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    request_id: str | None = None
    n: Whole | None = None
    best_of: Whole | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: Whole | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: list[str] | None = None

    top_k: Whole | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: Whole | None = None
    stop_token_ids: Wholes | None = None
    ignore_eos: bool | None = None
    allowed_token_ids: Wholes | None = None
    bad_words: list[str] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    prompt_logprobs: Whole | None = None
    logprob_token_ids: Wholes | None = None
    cache_salt: str | None = None
    session_id: str | None = Field(default=None, max_length=512)
    retention: RetentionField | None = None  # of the prefix, after the answer
    prompt_cache_retention: OpenAIRetention | None = None
    priority: Whole | None = None
    truncate_prompt_tokens: Whole | None = None
    truncation_side: Literal["left", "right"] | None = None
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_offsets: bool | None = None

    # llama.cpp's.
    cache_prompt: bool | None = None  # false: nothing that another request computed is used
    timings_per_token: bool | None = None

    # What the answer must look like, read in structured_fields.py.
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_json_object: bool | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    structural_tag: str | dict[str, Any] | None = None
    grammar: str | None = None
    json_schema: str | dict[str, Any] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, value: Any) -> Any:
        """One string becomes a list; an empty string, which some forms send, is ignored."""
        strings = [value] if isinstance(value, str) else value
        return [text for text in strings if text != ""] if isinstance(strings, list) else strings


class CompletionBody(StrictBody):
    """The fields that only /v1/completions has."""

    prompt: Any  # prompts.py distinguishes its four forms
    max_tokens: Whole | None = None
    # The chat route's name; some clients send both names to both routes.
    max_completion_tokens: Whole | None = None
    logprobs: Whole | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None


_TOOL_NAME = r"^[A-Za-z0-9_.\-]{1,128}$"


class FunctionBody(StrictBody):
    """A function that the model may call."""

    name: str = Field(pattern=_TOOL_NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None  # a JSON schema
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None  # has no effect, as in messages


class CustomBody(StrictBody):
    """A tool whose input is a text."""

    name: str = Field(pattern=_TOOL_NAME)
    description: str | None = None
    format: dict[str, Any] | None = None  # read in custom_tools.py


class ToolBody(StrictBody):
    """A tool; the field that is named as its type says what it is."""

    type: Literal["function", "custom"]
    function: FunctionBody | None = None
    custom: CustomBody | None = None
    cache_control: dict[str, Any] | None = None


class PredictionBody(StrictBody):
    """What an answer will mostly be."""

    type: Literal["content"]
    content: Any  # read as a message's


class ChatBody(StrictBody):
    """The fields that only /v1/chat/completions has."""

    messages: list[Any]  # read in messages.py
    max_tokens: Whole | None = None
    max_completion_tokens: Whole | None = None
    logprobs: bool | None = None
    top_logprobs: Whole | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    echo: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None
    tools: list[ToolBody] | None = Field(default=None, max_length=1024)
    tool_choice: Any = None  # read in tools.py
    parallel_tool_calls: bool | None = None
    functions: list[FunctionBody] | None = Field(default=None, max_length=1024)
    function_call: Any = None  # read in old_functions.py
    documents: list[Any] | None = None
    reasoning_effort: str | None = None
    include_reasoning: bool | None = None
    thinking_token_budget: Whole | None = None
    prediction: PredictionBody | None = None  # read in prediction.py
    store: bool | None = None  # by a room above; where there is none, true is refused
    metadata: dict[str, Any] | None = None


class TokenizeBody(StrictBody):
    """The fields of /tokenize: a prompt, or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Any] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[ToolBody] | None = Field(default=None, max_length=1024)
    return_token_strs: bool | None = None


class ContentBody(StrictBody):
    """The fields of /tokenize as llama.cpp has them."""

    model: str | None = None
    content: str
    add_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeBody(StrictBody):
    """The fields of /detokenize."""

    model: str | None = None
    tokens: Wholes


def parse_two(body_class: type[_Body], fields: Mapping[str, Any]) -> tuple[_Body, CommonBody]:
    """Parses a generation route's body into its own fields and the common ones.

    Raises:
      ApiError: 400 with the first wrong field as its param.
    """
    names = CommonBody.model_fields
    common = {name: value for name, value in fields.items() if name in names}
    own = {name: value for name, value in fields.items() if name not in names}
    return parse(body_class, own), parse(CommonBody, common)
