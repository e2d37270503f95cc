"""The fields of each request body and their types. Deliberately does not know limits or engines.

The bodies of the two generation routes are parsed as two parts, their own fields and the common
ones, so that no class inherits from another. None always means "not given", as in OpenAI's API.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator

from flaxen.server.errors import invalid

# Strict: "5" is not a number and true is not 1. Unknown fields are refused, never dropped.
_STRICT = ConfigDict(strict=True, extra="forbid", protected_namespaces=())


def whole(value: Any) -> Any:
    """Converts 3.0 to 3: JSON has one kind of number, and some clients always write a point."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _wholes(values: Any) -> Any:
    """Converts each item of a list, which may have a million."""
    if not isinstance(values, list) or float not in set(map(type, values)):
        return values
    return [whole(value) for value in values]


Whole = Annotated[int, BeforeValidator(whole)]
Wholes = Annotated[list[int], BeforeValidator(_wholes)]


class StreamOptions(BaseModel):
    """OpenAI's `stream_options`, with vLLM's continuous usage."""

    model_config = _STRICT

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class CommonBody(BaseModel):
    """The common fields of both generation routes: OpenAI's sampling fields, then vLLM's."""

    model_config = _STRICT

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
    cache_salt: str | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, value: Any) -> Any:
        """One string becomes a list; an empty string, which some forms send, is ignored."""
        strings = [value] if isinstance(value, str) else value
        return [text for text in strings if text != ""] if isinstance(strings, list) else strings


class CompletionBody(BaseModel):
    """The fields that only /v1/completions has."""

    model_config = _STRICT

    prompt: Any  # prompts.py distinguishes its four forms
    max_tokens: Whole | None = None
    # The chat route's name; some clients send both names to both routes.
    max_completion_tokens: Whole | None = None
    logprobs: Whole | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None


class ChatBody(BaseModel):
    """The fields that only /v1/chat/completions has."""

    model_config = _STRICT

    messages: list[Any]  # read in messages.py
    max_tokens: Whole | None = None
    max_completion_tokens: Whole | None = None
    logprobs: bool | None = None
    top_logprobs: Whole | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None


class TokenizeBody(BaseModel):
    """The fields of /tokenize: a prompt, or messages."""

    model_config = _STRICT

    model: str | None = None
    prompt: str | None = None
    messages: list[Any] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(BaseModel):
    """The fields of /detokenize."""

    model_config = _STRICT

    model: str | None = None
    tokens: Wholes


class LoadAdapterBody(BaseModel):
    """The fields of /v1/load_lora_adapter."""

    model_config = _STRICT

    lora_name: str
    lora_path: str
    load_inplace: bool | None = None


class UnloadAdapterBody(BaseModel):
    """The fields of /v1/unload_lora_adapter."""

    model_config = _STRICT

    lora_name: str


_Body = TypeVar("_Body", bound=BaseModel)


def parse(
    body_class: type[_Body],
    fields: Mapping[str, Any],
    *,
    context: Mapping[str, Any] | None = None,
) -> _Body:
    """Checks the fields' names and types. An unknown field that is null counts as not given.

    Args:
      body_class: the fields that there are.
      fields: the JSON object.
      context: this server's limits, for validators that ask for them.

    Raises:
      ApiError: 400 with the first wrong field as its param.
    """
    known = body_class.model_fields
    given = {name: value for name, value in fields.items() if value is not None or name in known}
    try:
        return body_class.model_validate(given, context=context)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
    param = _param(problem["loc"])
    if problem["type"] == "extra_forbidden":
        raise invalid(
            f"unknown field {param!r}: this server would have to ignore it, and refuses instead; "
            "remove it, or see docs/server.md for the fields there are",
            param,
            "unknown_parameter",
        )
    if problem["type"] == "missing":
        raise invalid(f"the field {param!r} is required", param, "missing_required_parameter")
    is_object = problem["type"] in ("model_type", "model_attributes_type")
    wanted = "an object" if is_object else problem["msg"].removeprefix("Input should be ")
    code = "invalid_value" if problem["type"] == "invalid_value" else "invalid_type"
    raise invalid(f"{param} must be {wanted}, got {shorten(problem['input'])}", param, code)


def parse_two(body_class: type[_Body], fields: Mapping[str, Any]) -> tuple[_Body, CommonBody]:
    """Parses a generation route's body into its own fields and the common ones.

    Raises:
      ApiError: 400 with the first wrong field as its param.
    """
    names = CommonBody.model_fields
    common = {name: value for name, value in fields.items() if name in names}
    own = {name: value for name, value in fields.items() if name not in names}
    return parse(body_class, own), parse(CommonBody, common)


def shorten(value: object) -> str:
    """Shortens a value for an error message to at most a line of what the client sent."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2


def _param(location: tuple[int | str, ...]) -> str:
    """("messages", 0, "role") -> "messages[0].role", as OpenAI names it."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            # The key is the client's own text: it is shown, so it is shortened.
            name += ("." if name else "") + part[:80]
    return name
