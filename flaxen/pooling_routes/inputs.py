"""Reads the `input` of a body: a text, texts, token ids or lists of them; and makes ids of it, or
of the messages of a chat in its place.
"""

from __future__ import annotations

from typing import Any

from flaxen.pooling.inputs import input_ids
from flaxen.pooling_routes.bodies import InputBody
from flaxen.pooling_routes.run import Asked, tokenized
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation.chat_prompts import chat_prompt
from flaxen.server.generation.continuing import check_open
from flaxen.server.generation.sampling_fields import check_token_ids
from flaxen.server.schema import must_be, whole


async def read_body(context: Context, asked: Asked, body: InputBody) -> list[list[int]]:
    """The ids of a body's inputs, or of its messages.

    Raises:
      ApiError: 400, as in `read_inputs` and `chat_prompt`, or both are given.
    """
    of_chats = ("add_generation_prompt", "continue_final_message", "chat_template_kwargs")
    if body.messages is None:
        for name in of_chats:
            if getattr(body, name) is not None:
                raise invalid(f"{name} needs messages: an input has no template", name)
        special = body.add_special_tokens is not False
        return await read_inputs(context, asked, body.input, add_special_tokens=special)
    if body.input is not None:
        raise invalid("give either input or messages, and not both", "messages")
    prompt = await chat_prompt(
        body.messages,
        add_generation_prompt=bool(body.add_generation_prompt),
        template_kwargs=body.chat_template_kwargs or {},
        add_special_tokens=bool(body.add_special_tokens),
        context=context,
        continues=check_open(body.continue_final_message, body.add_generation_prompt),
    )
    return [asked.params.cut(prompt.token_ids, context.engine.info)]


async def read_inputs(
    context: Context,
    asked: Asked,
    value: Any,
    *,
    add_special_tokens: bool = True,
    field: str = "input",
) -> list[list[int]]:
    """The ids of each input.

    Args:
      context: the server's parts.
      asked: says how they are cut, and which prompt comes before them.
      value: the field's value.
      add_special_tokens: put the model's special tokens around texts.
      field: the field's name, for errors.

    Raises:
      ApiError: 400, the value has none of the four forms, is empty, or an id is out of range.
    """
    given = _listed(value)
    limit = context.config.max_sequences
    if not 0 < len(given) <= limit:
        raise invalid(
            f"{field} must hold 1 to {limit} inputs on this server, got {len(given)}: send several "
            "requests",
            field,
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
        check_token_ids(each, context.engine.info.vocab_size, field)
    return ids


def _listed(value: Any) -> list[str | list[int]]:
    """The inputs as a list; texts and lists of ids may stand beside each other.

    Raises:
      ApiError: 400, they have none of these forms.
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        if value and all(_is_id(each) for each in value):
            return [[whole(each) for each in value]]
        if all(map(_is_input, value)):
            return [each if isinstance(each, str) else list(map(whole, each)) for each in value]
    raise must_be(
        "input",
        "a string, a list of strings, a list of token ids or a list of such lists",
        value,
        "invalid_type",
    )


def _is_input(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(map(_is_id, value)))


def _is_id(value: Any) -> bool:
    return isinstance(whole(value), int) and not isinstance(value, bool)
