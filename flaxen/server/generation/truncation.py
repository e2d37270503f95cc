"""Cuts a prompt to its last or first tokens, where a request asks for that (vLLM's fields)."""

from __future__ import annotations

from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation.bodies import CommonBody
from flaxen.server.generation.prompts import Prompt
from flaxen.server.schema import shorten

_FIELD = "truncate_prompt_tokens"


def truncate(
    prompt: Prompt, common: CommonBody, max_tokens: int | None, context: Context
) -> Prompt:
    """Returns the prompt without its first or last tokens, if it has more than are allowed.

    Args:
      prompt: the whole prompt.
      common: truncate_prompt_tokens is the most tokens; -1 is what the model's length leaves beside
          the answer, None no limit. truncation_side is where they are cut off, left if None.
      max_tokens: the answer's tokens, as the request asks for them.
      context: has the model's length.

    Raises:
      ApiError: 400, the limit is out of range.
    """
    most = common.truncate_prompt_tokens
    if most is None:
        return prompt
    length = context.engine.info.max_model_len
    if not (most == -1 or 1 <= most <= length):
        raise invalid(
            f"{_FIELD} must be in [1, {length}], the model's length, or -1 for what fits, got "
            f"{shorten(most)}",
            _FIELD,
        )
    if most == -1:
        most = max(1, length - (max_tokens or 1))
    if len(prompt.token_ids) <= most:
        return prompt
    ids = prompt.token_ids
    kept = ids[:most] if common.truncation_side == "right" else ids[-most:]
    return Prompt(token_ids=kept, text=None)
