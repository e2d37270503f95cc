"""Checks a request's embeddings and pooling. Deliberately does not know models or JAX."""

from __future__ import annotations

from typing import get_args

import numpy as np

from flaxen.protocol import EmbedSpan, FieldError, Pooling, Request, SamplingParams


def validate_inputs(request: Request) -> None:
    """Checks a request's grammar, embeddings and pooling, and what they are combined with.

    Raises:
      FieldError: the request can never be served; the message says which value is wrong and what is
          allowed.
    """
    _check_pooling(request)
    if request.grammar is not None and not callable(request.grammar):
        raise FieldError(
            "grammar",
            f"grammar must be a function that makes a sequence's grammar, got a "
            f"{type(request.grammar).__name__}: give its class, or a lambda that makes one",
        )
    if request.sampling.structured_outputs is not None and request.grammar is None:
        raise FieldError(
            "structured_outputs",
            "structured_outputs needs the request's grammar, which is made of it: give "
            "GrammarCompiler.compile(structured_outputs), or use LLM or the server, which do",
        )
    if request.prompt_embeds and request.sampling.prompt_logprobs is not None:
        raise FieldError(
            "prompt_logprobs",
            "prompt_logprobs can't be had of a prompt with prompt_embeds: where embeddings are "
            "given there is no token whose probability could be told. Leave one of them out",
        )
    end = 0
    for span in request.prompt_embeds:
        _check_span(span)
        num_prompt = len(request.prompt_token_ids)
        if span.start < end or span.end > num_prompt:
            raise FieldError(
                "prompt_embeds",
                f"prompt_embeds stand at {span.start} to {span.end - 1}, and must follow each "
                f"other without overlap in a prompt of {num_prompt} tokens",
            )
        end = span.end


def _check_span(span: EmbedSpan) -> None:
    """Checks one span alone. Whatever a plan or a step would fail on is refused here, since its
    failure there would end other requests too.
    """
    values, content_hash = span.values, span.content_hash
    if not isinstance(values, np.ndarray):
        raise FieldError(
            "prompt_embeds",
            f"values of prompt_embeds must be a NumPy array [n, D], got a {type(values).__name__}: "
            "convert it with numpy.asarray",
        )
    if values.ndim != 2 or 0 in values.shape:
        raise FieldError(
            "prompt_embeds", f"values of prompt_embeds must be [n, D], got {list(values.shape)}"
        )
    if not np.can_cast(values.dtype, np.float32, "same_kind"):
        raise FieldError(
            "prompt_embeds", f"values of prompt_embeds must be real numbers, got {values.dtype}"
        )
    if not isinstance(content_hash, bytes):
        raise FieldError(
            "prompt_embeds",
            f"content_hash of prompt_embeds must be bytes, got a {type(content_hash).__name__}",
        )
    if not content_hash:
        raise FieldError(
            "prompt_embeds",
            "content_hash of prompt_embeds is empty: give a hash of what the embeddings were "
            "made from, since prompts with equal hashes share cached pages",
        )
    if not isinstance(span.start, int):
        raise FieldError(
            "prompt_embeds", f"start of prompt_embeds must be a whole number, got {span.start!r}"
        )


def _check_pooling(request: Request) -> None:
    most = 0 if request.pooling is None else len(request.prompt_token_ids)
    for begin, end in request.pooled_spans:
        if not 0 <= begin < end <= most:
            raise FieldError(
                "pooled_spans",
                f"a span of a request with pooling is some of its {most} tokens, got "
                f"{begin} to {end}",
            )
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
