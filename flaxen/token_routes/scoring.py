"""POST /generative_scoring, as vLLM has it: how likely a model of text goes on with one of some
tokens, such as yes and no.

Deliberately does not know models that pool.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.protocol import Request, SamplingParams
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation.answer import Asked, BodyForm, begin, read_request
from flaxen.server.generation.answer_json import Envelope
from flaxen.server.generation.fields_without_effect import COMPLETION
from flaxen.server.generation.prompts import fit_max_tokens, read_prompts
from flaxen.server.generation.sampling_fields import check_token_ids
from flaxen.server.schema import StrictBody, Wholes
from flaxen.server.sse import unless_disconnected

# A request may have these fields, which it shares with other routes: none changes a score.
_SHARED = frozenset({"model", "request_id", "cache_salt", "priority"})


class ScoringBody(StrictBody):
    """The fields of /generative_scoring beside the common ones."""

    query: str | Wholes
    items: list[str] | list[Wholes] = Field(min_length=1)  # each is put behind the query
    label_token_ids: Wholes = Field(min_length=1)
    apply_softmax: bool | None = None  # whether the labels' probabilities add up to 1; true
    item_first: bool | None = None  # puts the query behind each item
    add_special_tokens: bool | None = None


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """How scores are made of the log-probabilities."""

    apply_softmax: bool

    def score(self, logprobs: np.ndarray) -> float:
        """The probability of the first label, of the labels' log-probabilities."""
        if not self.apply_softmax:
            return float(np.exp(logprobs[0]))
        powers = np.exp(logprobs - logprobs.max())
        return float(powers[0] / powers.sum())


async def create(context: Context, http: HttpRequest) -> Response:
    """Answers POST /generative_scoring."""
    read = await read_request(context, http, BODY)
    streams, usage = await begin(context, http, read, BODY.field_names)
    scores: dict[int, float] = {}

    async def collect() -> bool:
        async for i, event in streams.events():
            usage.count(event)
            for entry in event.logprobs or ():
                scores[i] = read.view.score(np.array([value for _, value in entry.top]))
        return True

    try:
        is_whole = await unless_disconnected(http.receive, collect())
    finally:
        await streams.close()
    if is_whole is None:
        return Response(status_code=499)
    asked = read.asked
    envelope = Envelope(
        id=asked.answer_id, object="list", model=asked.model, created=int(time.time())
    )
    data = [{"index": i, "object": "score", "score": scores[i]} for i in sorted(scores)]
    return JSONResponse(envelope.fields() | {"data": data, "usage": usage.json()})


async def _parse(
    context: Context, body: ScoringBody, asked: Asked
) -> tuple[list[Request], _Labels]:
    for name in sorted(asked.common.model_fields_set - _SHARED):
        if getattr(asked.common, name) is not None:
            raise invalid(f"{name} is of answers, and a score has no text: leave it out", name)
    softmax = body.apply_softmax is not False
    if not softmax and context.engine.info.logprobs_mode.is_logits:
        raise invalid(
            "this server reports logits (--logprobs-mode), which are no probabilities: leave "
            "apply_softmax out",
            "apply_softmax",
        )
    labels = tuple(body.label_token_ids)
    check_token_ids(labels, context.engine.info.vocab_size, "label_token_ids")
    joined: list[Any] = []
    for item in body.items:
        if type(item) is not type(body.query):
            raise invalid("query and items must both be texts, or both be token ids", "items")
        parts: Any = (item, body.query) if body.item_first else (body.query, item)
        joined.append(parts[0] + parts[1])
    special = body.add_special_tokens is not False
    prompts = await read_prompts(joined, add_special_tokens=special, context=context)
    sampling = SamplingParams(max_tokens=1, logprobs=0, logprob_token_ids=labels)
    for prompt in prompts:
        fit_max_tokens(prompt, 1, None, context, field="max_tokens", prompt_field="items")
    requests = [asked.request(i, prompt, sampling) for i, prompt in enumerate(prompts)]
    return requests, _Labels(apply_softmax=softmax)


BODY = BodyForm(
    id_prefix="generative-scoring",
    body=ScoringBody,
    without_effect=COMPLETION,
    field_names={"prompt_token_ids": "items", "logprob_token_ids": "label_token_ids"},
    parse=_parse,
)
