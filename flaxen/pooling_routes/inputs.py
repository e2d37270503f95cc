"""Reads the `input` of a body: a text, texts, token ids or lists of them; and makes ids of it."""

from __future__ import annotations

from typing import Any

from flaxen.pooling.inputs import input_ids
from flaxen.pooling_routes.run import Asked, tokenized
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation.sampling_fields import check_token_ids
from flaxen.server.schema import shorten, whole


async def read_inputs(
    context: Context, asked: Asked, value: Any, *, add_special_tokens: bool
) -> list[list[int]]:
    """The ids of each input.

    Raises:
      ApiError: 400, the value has none of the four forms, is empty, or an id is out of range.
    """
    given = _listed(value)
    limit = context.config.max_sequences
    if not 0 < len(given) <= limit:
        raise invalid(
            f"input must hold 1 to {limit} inputs on this server, got {len(given)}: send several "
            "requests",
            "input",
        )

    def encode() -> list[list[int]]:
        return [
            input_ids(
                context.tokenizer,
                context.engine.info,
                asked.pooling,
                each,
                asked.params,
                add_special_tokens=add_special_tokens,
            )
            for each in given
        ]

    ids = await tokenized(encode, sum(map(len, given)), context)
    for each in ids:
        check_token_ids(each, context.engine.info.vocab_size, "input")
    return ids


def _listed(value: Any) -> list[str] | list[list[int]]:
    """The inputs as a list.

    Raises:
      ApiError: 400, they have none of the four forms.
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        if all(isinstance(each, str) for each in value):
            return value
        if all(_is_id(each) for each in value):
            return [[whole(each) for each in value]]
        if all(isinstance(each, list) and all(map(_is_id, each)) for each in value):
            return [[whole(each) for each in ids] for ids in value]
    raise invalid(
        "input must be a string, a list of strings, a list of token ids or a list of such lists, "
        f"got {shorten(value)}",
        "input",
        "invalid_type",
    )


def _is_id(value: Any) -> bool:
    return isinstance(whole(value), int) and not isinstance(value, bool)
