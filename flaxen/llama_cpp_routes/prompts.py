"""Reads the prompts of a body of llama.cpp's: texts, token ids, and both in one.

Deliberately does not know sampling.
"""

from __future__ import annotations

from typing import Any

from flaxen.server.context import Context
from flaxen.server.errors import ApiError, invalid
from flaxen.server.generation.prompts import Prompt, encode
from flaxen.server.generation.sampling_fields import check_token_ids
from flaxen.server.schema import must_be, whole

_TEXT, _MEDIA = "prompt_string", "multimodal_data"


async def read_prompts(value: Any, context: Context) -> list[Prompt]:
    """The prompts of a body: one, or a list of them.

    A prompt is a text, token ids, a list of both, or an object with a prompt_string.

    Raises:
      ApiError: 400, the value has none of these forms, holds images or sounds, there are too many
          prompts, one is empty, or an id is out of range; 429 and 503, as in `encode`.
    """
    given = _listed(value)
    limit = context.config.max_prompts
    if not 0 < len(given) <= limit:
        raise invalid(
            f"prompt must hold 1 to {limit} prompts on this server, got {len(given)}", "prompt"
        )
    prompts = [_pieces(each) for each in given]
    # The tokens that the model wants before a text belong before the whole prompt alone.
    firsts = [pieces[0] for pieces in prompts if pieces and isinstance(pieces[0], str)]
    others = [piece for pieces in prompts for piece in pieces[1:] if isinstance(piece, str)]
    begun = iter(await encode(firsts, True, context))
    encoded = iter(await encode(others, False, context))
    read = []
    for pieces in prompts:
        ids: list[int] = []
        for k, piece in enumerate(pieces):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids += next(encoded if k else begun)
        if not ids:
            raise invalid("the prompt is empty: give at least one token", "prompt")
        check_token_ids(ids, context.engine.info.vocab_size, "prompt")
        text = pieces[0] if len(pieces) == 1 and isinstance(pieces[0], str) else None
        read.append(Prompt(token_ids=tuple(ids), text=text))
    return read


def _listed(value: Any) -> list[Any]:
    """The prompts as a list; one of them may be a list itself."""
    if not isinstance(value, list) or any(_is_id(each) for each in value):
        return [value]
    return value


def _pieces(value: Any) -> list[str | int]:
    """The texts and ids of one prompt."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict) and isinstance(value.get(_TEXT), str):
        if value.get(_MEDIA):
            raise invalid(f"{_MEDIA} is refused: the model reads text only", "prompt")
        if set(value) <= {_TEXT, _MEDIA}:
            return [value[_TEXT]]
    if isinstance(value, list) and all(isinstance(each, str) or _is_id(each) for each in value):
        return [each if isinstance(each, str) else whole(each) for each in value]
    raise _wrong(value)


def _wrong(value: Any) -> ApiError:
    return must_be(
        "prompt",
        "a text, a list of token ids and texts, an object with a prompt_string, or a list of these",
        value,
        "invalid_type",
    )


def _is_id(value: Any) -> bool:
    return isinstance(whole(value), int) and not isinstance(value, bool)
