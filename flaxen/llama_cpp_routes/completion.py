"""POST /completion, as llama.cpp has it: texts are continued, whole or streamed.

Deliberately does not know the JSON of an answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.llama_cpp_routes.answers import Answer, AnswerForm
from flaxen.llama_cpp_routes.bodies import (
    FIELD_NAMES,
    WITHOUT_EFFECT,
    CompletionBody,
    common_names,
)
from flaxen.llama_cpp_routes.prompts import read_prompts
from flaxen.protocol import Request
from flaxen.server.context import Context
from flaxen.server.generation.answer import Asked, BodyForm, begin, read_request
from flaxen.server.generation.engine_streams import EngineStreams
from flaxen.server.generation.prompts import fit_max_tokens
from flaxen.server.generation.sampling_fields import check_logprobs, sampling_params
from flaxen.server.sse import DATA_EVENTS, EventStreamResponse, to_json, unless_disconnected
from flaxen.server.usage import Usage

Flatten = Callable[[dict[str, Any], Context], dict[str, Any]]
_EVENTS = replace(DATA_EVENTS, end=b"")  # the last event says that it is the last


async def create(context: Context, http: HttpRequest) -> Response:
    """Answers POST /completion."""
    return await complete(context, http, common_names)


async def complete(context: Context, http: HttpRequest, flatten: Flatten) -> Response:
    """Answers a request whose body becomes that of /completion.

    Args:
      context: the server's parts.
      http: the request.
      flatten: the fields of /completion, with the names of other routes, from those of the body.

    Raises:
      ApiError: 400, the body is invalid; and other errors of its parts.
    """
    form = replace(_BODY, flatten=lambda fields: flatten(fields, context))
    read = await read_request(context, http, form)
    view = read.view
    streams, usage = await begin(context, http, read, FIELD_NAMES)
    if read.asked.common.stream:
        events = _stream(view, streams, usage)
        return EventStreamResponse(events, streams.close, http.state.log.noted, _EVENTS)
    try:
        is_there = await unless_disconnected(http.receive, _collect(view, streams, usage))
    finally:
        await streams.close()
    if is_there is None:
        return Response(status_code=499)
    whole = [answer.whole() for answer in view.answers]
    return JSONResponse(whole if view.is_list else whole[0])


@dataclass(frozen=True, kw_only=True)
class _View:
    """The answers, one for each prompt, and whether a list was asked for."""

    answers: list[Answer]
    is_list: bool


async def _parse(
    context: Context, body: CompletionBody, asked: Asked
) -> tuple[list[Request], _View]:
    common = asked.common
    check_logprobs(body.logprobs, "n_probs", context)
    prompts = await read_prompts(body.prompt, context)
    form = AnswerForm(
        tokenizer=context.tokenizer,
        model=asked.model,
        is_streamed=bool(common.stream),
        with_tokens=bool(body.return_tokens),
        num_probs=body.logprobs,
        fields=body.response_fields or (),
        max_model_len=context.engine.info.max_model_len,
        timings_in_parts=bool(common.timings_per_token),
    )
    wanted = None if body.max_tokens in (-1, -2) else body.max_tokens  # as many as fit
    requests, answers = [], []
    for index, prompt in enumerate(prompts):
        most = fit_max_tokens(
            prompt, wanted, None, context, field="n_predict", prompt_field="prompt"
        )
        sampling = sampling_params(
            common, context, max_tokens=most, logprobs=body.logprobs, prompt_logprobs=None
        )
        requests.append(asked.request(index, prompt, sampling))
        answers.append(
            Answer(
                form=form,
                index=index,
                prompt=prompt,
                sampling=sampling,
                usage=Usage(num_prompt=len(prompt.token_ids)),
            )
        )
    return requests, _View(answers=answers, is_list=len(prompts) > 1)


async def _collect(view: _View, streams: EngineStreams, usage: Usage) -> bool:
    async for i, event in streams.events():
        usage.count(event)
        view.answers[i].add(event)
    return True


async def _stream(view: _View, streams: EngineStreams, usage: Usage) -> AsyncGenerator[str, None]:
    async for i, event in streams.events():
        usage.count(event)
        answer = view.answers[i]
        answer.add(event)
        if event.text or event.token_ids:
            yield to_json(answer.part(event))
        if event.finish is not None:
            yield to_json(answer.whole())


_BODY = BodyForm(
    id_prefix="cmpl",
    body=CompletionBody,
    without_effect=WITHOUT_EFFECT,
    field_names=FIELD_NAMES,
    parse=_parse,
)
