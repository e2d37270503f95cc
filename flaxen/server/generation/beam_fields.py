"""Checks what a body asks of a beam search. Deliberately does not know how beams are searched."""

from __future__ import annotations

from collections.abc import Sequence

from flaxen.protocol import Request
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation.beam_search import BeamSearch
from flaxen.server.generation.bodies import CommonBody

_MOST_PENALTY = 10  # a length to this power is still a number
# Fields that say how to sample, and the values of them that say nothing.
_OF_SAMPLING = {
    "top_p": 1,
    "top_k": 0,
    "min_p": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "logit_bias": {},
    "stop": [],
    "allowed_token_ids": None,
    "bad_words": [],
    "min_tokens": 0,
    "prompt_logprobs": None,
    "logprob_token_ids": [],
}


def beam_search(
    common: CommonBody, requests: Sequence[Request], context: Context
) -> BeamSearch | None:
    """Returns the search that a body asks for; None if it asks for samples.

    Raises:
      ApiError: 400, the body combines it with what only samples have, or asks for too many beams.
    """
    if not common.use_beam_search:
        if common.length_penalty not in (None, 1):
            raise invalid("length_penalty needs use_beam_search=true", "length_penalty")
        return None
    mode = context.engine.info.logprobs_mode
    if mode.is_logits:
        raise invalid(
            f"this server reports logits (--logprobs-mode {mode}), and a beam search adds up "
            "log-probabilities: leave use_beam_search out",
            "use_beam_search",
        )
    if common.stream:
        raise invalid("a beam search can't be streamed: set stream=false", "stream")
    for name, neutral in _OF_SAMPLING.items():
        value = getattr(common, name)
        if value is not None and value != neutral:
            raise invalid(
                f"{name} can't be combined with use_beam_search, which compares the model's own "
                "probabilities: leave one of them out",
                name,
            )
    if requests[0].sampling.prompt_logprobs is not None:
        raise invalid("echo with logprobs can't be combined with use_beam_search", "echo")
    if any(request.grammar is not None for request in requests):
        raise invalid("a structured output can't be combined with use_beam_search")
    most = min(context.engine.info.max_logprobs, context.engine.info.vocab_size) // 2
    if requests[0].sampling.n > most:
        raise invalid(
            f"n must be at most {most} with use_beam_search, got {requests[0].sampling.n}", "n"
        )
    penalty = 1.0 if common.length_penalty is None else common.length_penalty
    if not abs(penalty) <= _MOST_PENALTY:
        raise invalid(
            f"length_penalty must be in [-{_MOST_PENALTY}, {_MOST_PENALTY}], got {penalty}",
            "length_penalty",
        )
    return BeamSearch(context.engine, context.tokenizer, length_penalty=penalty)
