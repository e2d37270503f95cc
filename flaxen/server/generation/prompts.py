"""Tokenizes the prompt of a body, and determines how many tokens the answer may have.

Knows: OpenAI's four forms of a prompt, the model's length. Deliberately does not know sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from flaxen.server.context import Context
from flaxen.server.errors import ApiError, invalid
from flaxen.server.generation.sampling_fields import check_token_ids
from flaxen.server.lanes import deadline
from flaxen.server.schema import must_be, shorten, whole

_T = TypeVar("_T")

# More characters in total are tokenized in a thread, because they would delay every stream.
_LONG_TEXT = 20_000
# More characters take so long that shorter texts must not wait for them.
_HUGE_TEXT = 400_000
# Agents and LiteLLM look for these words of OpenAI's, and then shorten the conversation.
_LENGTH = "this model's maximum context length"
_TOKENIZE_S = 30.0  # including the wait for a turn


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt: its token ids, and its text if it was sent as text."""

    token_ids: tuple[int, ...]
    text: str | None


async def read_prompts(value: Any, *, add_special_tokens: bool, context: Context) -> list[Prompt]:
    """Reads a string, a list of strings, a list of ids, or a list of lists of ids.

    Raises:
      ApiError: 400, the value has none of these forms, there are too many prompts, one is empty, or
          an id is out of range.
    """
    wrong = must_be(
        "prompt",
        "a string, a list of strings, a list of token ids or a list of such lists",
        value,
        "invalid_type",
    )
    if isinstance(value, str) or (isinstance(value, list) and value and _is_id(whole(value[0]))):
        value = [value]
    if not isinstance(value, list):
        raise wrong
    if not value:
        raise invalid("prompt must hold at least one prompt, got an empty list", "prompt")
    limit = context.config.max_prompts
    if len(value) > limit:
        raise invalid(
            f"prompt must hold at most {limit} prompts on this server, got {len(value)}", "prompt"
        )
    if all(isinstance(item, str) for item in value):
        encoded = await encode(value, add_special_tokens, context)
        texts: list[str | None] = value
    elif all(isinstance(item, list) for item in value):
        encoded, texts = [_read_ids(item, wrong) for item in value], [None] * len(value)
        for token_ids in encoded:
            check_token_ids(token_ids, context.engine.info.vocab_size, "prompt")
    else:
        raise wrong
    if not all(encoded):
        raise invalid("the prompt is empty: give at least one token", "prompt")
    return [
        Prompt(token_ids=tuple(token_ids), text=text)
        for token_ids, text in zip(encoded, texts, strict=True)
    ]


async def encode(
    texts: Sequence[str], add_special_tokens: bool, context: Context
) -> list[list[int]]:
    """Tokenizes each text without delaying other requests.

    Raises:
      ApiError: 429, too many long texts wait; 503, the turn did not come in time.
    """

    def encode_all() -> list[list[int]]:
        tokenizer = context.tokenizer
        return [tokenizer.encode(text, add_special_tokens=add_special_tokens) for text in texts]

    return await run_by_length(encode_all, sum(map(len, texts)), context)


async def run_by_length(work: Callable[[], _T], length: int, context: Context) -> _T:
    """Runs work whose time grows with the length of a text or list, without delaying other
    requests.

    Args:
      work: the work; run immediately if it is short.
      length: the length in characters or tokens.
      context: has the lanes for longer work.

    Raises:
      ApiError: 429, too much work waits; 503, it was not done in time.
    """
    if length <= _LONG_TEXT:
        return work()
    lane = context.long_texts if length <= _HUGE_TEXT else context.huge_texts
    async with deadline("turning text into tokens, or back,", _TOKENIZE_S):
        return await lane.run(work)


def asked_max_tokens(
    max_tokens: int | None, max_completion_tokens: int | None
) -> tuple[int | None, str]:
    """The max_tokens that a body requests, and the name of the field with it.

    Raises:
      ApiError: 400, the two fields differ.
    """
    if max_completion_tokens is None:
        return max_tokens, "max_tokens"
    if max_tokens is not None and max_tokens != max_completion_tokens:
        raise invalid(
            f"max_completion_tokens ({shorten(max_completion_tokens)}) and max_tokens "
            f"({shorten(max_tokens)}) mean the same and differ: send one of them",
            "max_completion_tokens",
        )
    return max_completion_tokens, "max_completion_tokens"


def fit_max_tokens(
    prompt: Prompt,
    asked: int | None,
    default: int | None,
    context: Context,
    *,
    field: str,
    prompt_field: str,
) -> int:
    """Returns how many tokens the answer may have; a request for more is refused, never cut
    silently.

    Args:
      asked: the request's value, or None.
      default: the value if `asked` is None, limited by the model's length; None is the model's own
          default, or that length.
      field: the name of `asked` in the request, for errors.
      prompt_field: the name of the prompt in the request, for errors.

    Raises:
      ApiError: 400, the value is below 1 or too large (code context_length_exceeded).
    """
    if asked is not None and asked < 1:
        raise must_be(field, "at least 1", asked)
    length, num_prompt = context.engine.info.max_model_len, len(prompt.token_ids)
    room = length - num_prompt
    if room < 1:
        raise _too_long(
            f"{_LENGTH} is {length} tokens, for prompt and output together, and the prompt has "
            f"{num_prompt}: shorten the prompt",
            prompt_field,
        )
    if asked is None:
        own = context.engine.info.default_sampling.get("max_tokens", room)
        return min(room, int(own) if default is None else default)
    if asked > room:
        raise _too_long(
            f"{_LENGTH} is {length} tokens, and the prompt has {num_prompt} and {field} is "
            f"{shorten(asked)}: ask for at most {room}, or shorten the prompt",
            field,
        )
    return asked


def _too_long(message: str, param: str) -> ApiError:
    # The message has counts and nothing of the prompt, so the log may have it.
    return ApiError(400, message, param=param, code="context_length_exceeded")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_ids(values: list[Any], wrong: ApiError) -> list[int]:
    if set(map(type, values)) <= {int}:  # the usual case, fast for a million ids
        return values
    token_ids = [whole(value) for value in values]
    if not all(map(_is_id, token_ids)):
        raise wrong
    return token_ids
