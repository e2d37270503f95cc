"""Checks a request's embeddings and pooling. Deliberately does not know models or JAX."""

from __future__ import annotations

from typing import get_args

import numpy as np

from flaxen.protocol import FieldError, Pooling, Request, SamplingParams


def validate_inputs(request: Request) -> None:
    """Checks a request's embeddings and pooling, and what they are combined with.

    Raises:
      FieldError: the request can never be served; the message says which value is wrong and what is
          allowed.
    """
    _check_pooling(request)
    if request.prompt_embeds and request.sampling.prompt_logprobs is not None:
        raise FieldError(
            "prompt_logprobs",
            "prompt_logprobs can't be had of a prompt with prompt_embeds: where embeddings are "
            "given there is no token whose probability could be told. Leave one of them out",
        )
    end = 0
    for span in request.prompt_embeds:
        shape = np.shape(span.values)
        if len(shape) != 2 or 0 in shape:
            raise FieldError(
                "prompt_embeds", f"values of prompt_embeds must be [n, D], got {list(shape)}"
            )
        if not span.content_hash:
            raise FieldError(
                "prompt_embeds",
                "content_hash of prompt_embeds is empty: give a hash of what the embeddings were "
                "made from, since prompts with equal hashes share cached pages",
            )
        num_prompt = len(request.prompt_token_ids)
        if span.start < end or span.end > num_prompt:
            raise FieldError(
                "prompt_embeds",
                f"prompt_embeds stand at {span.start} to {span.end - 1}, and must follow each "
                f"other without overlap in a prompt of {num_prompt} tokens",
            )
        end = span.end


def _check_pooling(request: Request) -> None:
    if request.pooling is None:
        return
    if request.pooling not in get_args(Pooling):
        raise FieldError(
            "pooling",
            f"pooling must be one of {', '.join(get_args(Pooling))}, got {request.pooling!r}",
        )
    if request.sampling != SamplingParams():
        raise FieldError(
            "pooling", "a request with pooling samples no token: leave its sampling out"
        )
    if request.grammar is not None:
        raise FieldError("grammar", "a request with pooling samples no token: leave grammar out")
