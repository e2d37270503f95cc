"""POST /v1/chat/completions. Deliberately does not know plain prompts or echo."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.protocol import SamplingParams, TokenLogprobs
from flaxen.server.body import read_json
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation import no_effect as idle
from flaxen.server.generation.answer import (
    Answer,
    ChunkWriter,
    Envelope,
    Usage,
    answer_id,
    check_cache_salt,
    now,
    start_generation,
)
from flaxen.server.generation.fields import (
    check_logprobs,
    sampling_params,
    stream_options,
)
from flaxen.server.generation.generation import Generation
from flaxen.server.generation.logprobs import chat_logprobs, prompt_logprobs
from flaxen.server.generation.prompts import Prompt, asked_max_tokens, chat_prompt, fit_max_tokens
from flaxen.server.schema import ChatBody, CommonBody, StreamOptions, parse_two
from flaxen.server.sse import EventStream, unless_disconnected

# What this route calls the engine's fields.
_FIELD_NAMES = {"prompt_token_ids": "messages", "logprobs": "top_logprobs"}


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One parsed request: what to generate, and how to write it down."""

    body: ChatBody
    common: CommonBody
    options: StreamOptions
    prompt: Prompt
    sampling: SamplingParams
    answer_id: str
    model: str
    adapter: str | None
    context: Context

    def envelope(self, kind: str) -> Envelope:
        return Envelope(id=self.answer_id, object=kind, model=self.model, created=now())

    def usage(self) -> Usage:
        return Usage(num_prompt=len(self.prompt.token_ids))

    def logprobs(self, entries: list[TokenLogprobs]) -> dict[str, Any] | None:
        if not self.body.logprobs:
            return None
        return chat_logprobs(
            entries,
            num_top=self.body.top_logprobs or 0,
            tokenizer=self.context.tokenizer,
            as_ids=bool(self.common.return_tokens_as_token_ids),
        )


async def create(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/chat/completions."""
    context.engine.check_health()
    job = await _parse(context, http)
    generation = await start_generation(
        context,
        job.answer_id,
        [job.prompt],
        [job.sampling],
        job.common.cache_salt,
        job.adapter,
        _FIELD_NAMES,
    )
    if job.common.stream:
        return EventStream(_stream(job, generation), generation.close)
    try:
        answer = await unless_disconnected(http.receive, _collect(job, generation))
    finally:
        await generation.close()
    return Response(status_code=499) if answer is None else JSONResponse(answer)


async def _parse(context: Context, http: HttpRequest) -> _Job:
    given = await read_json(http, context.config, context.bodies)
    fields = idle.drop_idle_fields(given, idle.CHAT)
    body, common = parse_two(ChatBody, fields)
    model, adapter = context.find_model(common.model)
    new_id = answer_id(http, "chatcmpl", common.request_id)
    options = stream_options(common)
    check_cache_salt(common)
    check_logprobs(body.top_logprobs, "top_logprobs", context)
    check_logprobs(common.prompt_logprobs, "prompt_logprobs", context)
    if body.top_logprobs and not body.logprobs:
        raise invalid("top_logprobs needs logprobs=true", "top_logprobs")
    if common.stream and common.prompt_logprobs is not None:
        raise invalid("prompt_logprobs can't be streamed: set stream=false", "prompt_logprobs")
    asked, field = asked_max_tokens(body.max_tokens, body.max_completion_tokens)
    prompt = await chat_prompt(
        body.messages,
        add_generation_prompt=body.add_generation_prompt is not False,
        template_kwargs=body.chat_template_kwargs or {},
        add_special_tokens=bool(body.add_special_tokens),
        context=context,
    )
    sampling = sampling_params(
        common,
        context,
        max_tokens=fit_max_tokens(
            prompt,
            asked,
            None,
            context,
            field=field,
            prompt_field="messages",
        ),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=common.prompt_logprobs,
    )
    return _Job(
        body=body,
        common=common,
        options=options,
        prompt=prompt,
        sampling=sampling,
        answer_id=new_id,
        model=model,
        adapter=adapter,
        context=context,
    )


async def _collect(job: _Job, generation: Generation) -> dict[str, Any]:
    usage = job.usage()
    answers = [Answer() for _ in range(job.sampling.n)]
    whole = job.envelope("chat.completion").fields()
    async for _, event in generation.events():
        if event.prompt_logprobs is not None:
            whole["prompt_logprobs"] = prompt_logprobs(
                event.prompt_logprobs,
                num_top=job.common.prompt_logprobs or 0,
                tokenizer=job.context.tokenizer,
            )
        usage.count(event)
        answers[event.index].add(event)
    choices = [_whole_choice(job, index, answer) for index, answer in enumerate(answers)]
    if job.common.return_token_ids:
        whole["prompt_token_ids"] = list(job.prompt.token_ids)
    return whole | {"choices": choices, "usage": usage.json()}


def _whole_choice(job: _Job, index: int, answer: Answer) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": index,
        "message": {"role": "assistant", "content": "".join(answer.texts), "refusal": None},
        "logprobs": job.logprobs(answer.logprobs),
        "finish_reason": answer.finish_reason,
        "stop_reason": answer.stop_reason,
    }
    if job.common.return_token_ids:
        choice["token_ids"] = answer.token_ids
    return choice


async def _stream(job: _Job, generation: Generation) -> AsyncGenerator[str, None]:
    usage = job.usage()
    writer = ChunkWriter(job.envelope("chat.completion.chunk"), usage, job.options)
    with_ids, with_logprobs = bool(job.common.return_token_ids), bool(job.body.logprobs)
    for index in range(job.sampling.n):
        opening: dict[str, Any] = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        if with_ids and index == 0:
            yield writer.chunk(opening, prompt_token_ids=list(job.prompt.token_ids))
        else:
            yield writer.chunk(opening)
    async for _, event in generation.events():
        usage.count(event)
        finish = event.finish
        if not (event.text or finish or (event.token_ids and (with_ids or with_logprobs))):
            continue  # half a character, or what may become a stop string: it comes with the next
        choice: dict[str, Any] = {
            "index": event.index,
            "delta": {"content": event.text} if event.text else {},
            "logprobs": job.logprobs(list(event.logprobs)) if event.logprobs else None,
            "finish_reason": None,
        }
        if finish is not None:
            choice["finish_reason"] = finish.reason.value
            choice["stop_reason"] = finish.stop_reason
        if with_ids:
            choice["token_ids"] = list(event.token_ids)
        yield writer.chunk(choice)
    if writer.wants_usage:
        yield writer.last()
