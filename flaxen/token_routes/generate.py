"""POST /inference/v1/generate, as vLLM has it: tokens in, tokens out.

Deliberately does not know texts, although stop strings work here too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from flaxen.protocol import Request, TokenLogprobs
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation.answer import Asked, BodyForm, Route, answer
from flaxen.server.generation.answer_json import ChunkWriter, WholeSequence
from flaxen.server.generation.engine_streams import EngineStreams
from flaxen.server.generation.fields_without_effect import COMPLETION, Rule
from flaxen.server.generation.logprobs import chat_logprobs, prompt_logprobs
from flaxen.server.generation.prompts import Prompt, fit_max_tokens
from flaxen.server.generation.sampling_fields import (
    check_logprobs,
    check_token_ids,
    sampling_params,
)
from flaxen.server.generation.truncation import truncate
from flaxen.server.schema import StrictBody, Whole, Wholes, must_be
from flaxen.server.usage import Usage
from flaxen.text.tokenizer import Tokenizer

SAMPLING = "sampling_params"
# The fields that stand beside sampling_params; all others belong in it.
OUTER = frozenset(
    {
        "request_id",
        "model",
        "token_ids",
        "token_offsets",
        "features",
        "stream",
        "stream_options",
        "cache_salt",
        "session_id",
        "retention",
        "prompt_cache_retention",
        "priority",
        "kv_transfer_params",
    }
)
WITHOUT_EFFECT = {
    **COMPLETION,
    "features": Rule(lambda value: value == {}, "the model reads tokens only"),
    "token_offsets": Rule(lambda value: isinstance(value, list), "it must be a list"),
    # The text is only made for stop strings.
    "detokenize": Rule(lambda value: isinstance(value, bool), "it must be true or false"),
    "skip_clone": Rule(lambda value: isinstance(value, bool), "it must be true or false"),
    "output_kind": Rule(
        lambda value: value in (0, 1, 2), "it must be 0, 1 or 2; stream says what is sent"
    ),
}


class GenerateBody(StrictBody):
    """The fields of /inference/v1/generate beside the common ones, with those of sampling_params
    among them.
    """

    token_ids: Wholes
    max_tokens: Whole | None = None
    logprobs: Whole | None = None


async def create(context: Context, http: HttpRequest) -> Response:
    """Answers POST /inference/v1/generate."""
    return await answer(context, http, ROUTE)


def flatten(body: dict[str, Any]) -> dict[str, Any]:
    """Puts the fields of sampling_params beside the others.

    Raises:
      ApiError: 400, sampling_params is no object, or a field is on the wrong side.
    """
    outer = {name: value for name, value in body.items() if name != SAMPLING}
    inner = body.get(SAMPLING)
    if inner is None:
        inner = {}
    if not isinstance(inner, dict):
        raise must_be(SAMPLING, "an object", inner, "invalid_type")
    for name in outer:
        if name not in OUTER:
            param = name[:80]
            raise invalid(
                f"unknown field {param!r}: what says how to sample goes into {SAMPLING}",
                param,
                "unknown_parameter",
            )
    for name in inner:
        if name in OUTER:
            raise invalid(
                f"{SAMPLING}.{name} is not there: {name} stands beside {SAMPLING}",
                f"{SAMPLING}.{name}",
                "unknown_parameter",
            )
    if inner.get("stop") and inner.get("detokenize") is False:
        raise invalid(
            "stop strings need detokenize=true: without texts nothing can be compared with them",
            "stop",
        )
    return {**inner, **outer}


@dataclass(frozen=True, kw_only=True)
class _TokensView:
    """Everything that is needed to write the answer."""

    tokenizer: Tokenizer
    request_id: str
    n: int
    logprobs: int | None
    names_tokens: bool  # logprobs are also told of the tokens that the request named
    prompt_logprobs: int | None

    def described(self, entries: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        """The `logprobs` of a choice, whose tokens have no texts; the sampled one is always told
        among the likeliest.
        """
        if self.logprobs is None:
            return None
        num_top = None if self.names_tokens else max(1, self.logprobs)
        return chat_logprobs(entries, num_top=num_top, tokenizer=self.tokenizer, as_ids=True)


async def _parse(
    context: Context, body: GenerateBody, asked: Asked
) -> tuple[list[Request], _TokensView]:
    common = asked.common
    check_logprobs(body.logprobs, "logprobs", context)
    check_token_ids(body.token_ids, context.engine.info.vocab_size, "token_ids")
    if not body.token_ids:
        raise invalid("token_ids is empty: give at least one token", "token_ids")
    prompt = Prompt(token_ids=tuple(body.token_ids), text=None)
    prompt = truncate(prompt, common, body.max_tokens, context)
    sampling = sampling_params(
        common,
        context,
        max_tokens=fit_max_tokens(
            prompt, body.max_tokens, None, context, field="max_tokens", prompt_field="token_ids"
        ),
        logprobs=body.logprobs,
        prompt_logprobs=common.prompt_logprobs,
    )
    view = _TokensView(
        tokenizer=context.tokenizer,
        request_id=asked.answer_id,
        n=sampling.n,
        logprobs=body.logprobs,
        names_tokens=bool(common.logprob_token_ids),
        prompt_logprobs=common.prompt_logprobs,
    )
    return [asked.request(0, prompt, sampling)], view


async def _collect(view: _TokensView, streams: EngineStreams, usage: Usage) -> dict[str, Any]:
    sequences = [WholeSequence() for _ in range(view.n)]
    whole: dict[str, Any] = {"request_id": view.request_id, "prompt_logprobs": None}
    async for _, event in streams.events():
        if event.prompt_logprobs is not None:
            whole["prompt_logprobs"] = prompt_logprobs(
                event.prompt_logprobs,
                num_top=view.prompt_logprobs or 0,
                tokenizer=view.tokenizer,
            )
        usage.count(event)
        sequences[event.index].add(event)
    whole["choices"] = [
        {
            "index": index,
            "token_ids": sequence.token_ids,
            "logprobs": view.described(sequence.logprobs),
            "finish_reason": sequence.finish_reason,
            "stop_reason": sequence.stop_reason,
        }
        for index, sequence in enumerate(sequences)
    ]
    return whole


async def _stream(
    view: _TokensView, streams: EngineStreams, writer: ChunkWriter
) -> AsyncGenerator[str, None]:
    async for _, event in streams.events():
        writer.usage.count(event)
        finish = event.finish
        if not (event.token_ids or finish):
            continue
        choice = {
            "index": event.index,
            "token_ids": list(event.token_ids),
            "logprobs": view.described(event.logprobs) if event.logprobs else None,
            "finish_reason": None if finish is None else finish.reason.wire_name,
            "stop_reason": None if finish is None else finish.stop_reason,
        }
        yield writer.chunk(choice, request_id=view.request_id)
    if writer.wants_usage:
        yield writer.last()


BODY = BodyForm(
    id_prefix="generate-tokens",
    body=GenerateBody,
    without_effect=WITHOUT_EFFECT,
    field_names={"prompt_token_ids": "token_ids"},
    parse=_parse,
    flatten=flatten,
)
ROUTE = Route(
    reads=BODY,
    object="tokens",
    chunk_object="tokens.chunk",
    collect=_collect,
    stream=_stream,
)
