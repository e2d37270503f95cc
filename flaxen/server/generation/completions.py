"""POST /v1/completions. Deliberately does not know chat messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.protocol import SamplingParams, TokenEvent, TokenLogprobs
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
from flaxen.server.generation.logprobs import completion_logprobs, prompt_logprobs
from flaxen.server.generation.prompts import Prompt, asked_max_tokens, fit_max_tokens, read_prompts
from flaxen.server.generation.text_offset import OffsetWriter, ScoredTokens
from flaxen.server.schema import CommonBody, CompletionBody, StreamOptions, parse_two
from flaxen.server.sse import EventStream, unless_disconnected

_DEFAULT_MAX_TOKENS = 16  # OpenAI's, where the field is left out; null is up to the model's length
# What this route calls the engine's fields.
_FIELD_NAMES = {"prompt_token_ids": "prompt"}


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One parsed request: what to generate, and how to write it down."""

    body: CompletionBody
    common: CommonBody
    options: StreamOptions
    prompts: list[Prompt]
    samplings: list[SamplingParams]
    envelope: Envelope
    adapter: str | None
    only_scores: bool  # the prompt is wanted back, and nothing after it
    context: Context

    def usage(self) -> Usage:
        return Usage(num_prompt=sum(len(prompt.token_ids) for prompt in self.prompts))


async def create(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/completions."""
    context.engine.check_health()
    job = await _parse(context, http)
    generation = await start_generation(
        context,
        job.envelope.id,
        job.prompts,
        job.samplings,
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
    fields = idle.drop_idle_fields(
        await read_json(http, context.config, context.bodies), idle.COMPLETION
    )
    body, common = parse_two(CompletionBody, fields)
    model, adapter = context.find_model(common.model)
    new_id = answer_id(http, "cmpl", common.request_id)
    options = stream_options(common)
    check_cache_salt(common)
    check_logprobs(body.logprobs, "logprobs", context)
    check_logprobs(common.prompt_logprobs, "prompt_logprobs", context)
    n = 1 if common.n is None else common.n
    asked, field = asked_max_tokens(body.max_tokens, body.max_completion_tokens)
    if asked == 0 and not body.echo:
        raise invalid(f"{field} must be at least 1 without echo=true, got 0", field)
    if common.stream and common.prompt_logprobs is not None:
        raise invalid("prompt_logprobs can't be streamed: set stream=false", "prompt_logprobs")
    if common.stream and body.echo and body.logprobs is not None and n > 1:
        raise invalid("echo with logprobs and n > 1 can't be streamed: set stream=false", "stream")

    prompts = await read_prompts(
        body.prompt, add_special_tokens=body.add_special_tokens is not False, context=context
    )
    default = None if field in body.model_fields_set else _DEFAULT_MAX_TOKENS
    samplings = [
        sampling_params(
            common,
            context,
            # The engine always samples a token: one that only scores is dropped in _without_output.
            max_tokens=fit_max_tokens(
                prompt,
                1 if asked == 0 else asked,
                default,
                context,
                field=field,
                prompt_field="prompt",
            ),
            logprobs=body.logprobs,
            prompt_logprobs=_prompt_logprobs(body, common),
        )
        for prompt in prompts
    ]
    envelope = Envelope(id=new_id, object="text_completion", model=model, created=now())
    return _Job(
        body=body,
        common=common,
        options=options,
        prompts=prompts,
        samplings=samplings,
        envelope=envelope,
        adapter=adapter,
        only_scores=asked == 0,
        context=context,
    )


def _prompt_logprobs(body: CompletionBody, common: CommonBody) -> int | None:
    """The prompt's logprobs that the engine must give: for echo, for the field, or for both."""
    counts = [common.prompt_logprobs] if common.prompt_logprobs is not None else []
    if body.echo and body.logprobs is not None:
        counts.append(body.logprobs)
    return max(counts, default=None)


async def _collect(job: _Job, generation: Generation) -> dict[str, Any]:
    n, usage = job.samplings[0].n, job.usage()
    answers = [Answer() for _ in range(len(job.prompts) * n)]
    prompt_entries: dict[int, tuple[TokenLogprobs | None, ...]] = {}
    async for i, event in generation.events():
        if event.prompt_logprobs is not None:
            prompt_entries[i] = event.prompt_logprobs
        event = _without_output(event) if job.only_scores else event
        usage.count(event)
        answers[i * n + event.index].add(event)
    choices = [
        _whole_choice(job, index, index // n, answer, prompt_entries.get(index // n))
        for index, answer in enumerate(answers)
    ]
    return job.envelope.fields() | {"choices": choices, "usage": usage.json()}


def _whole_choice(
    job: _Job,
    index: int,
    prompt_index: int,
    answer: Answer,
    prompt_entries: tuple[TokenLogprobs | None, ...] | None,
) -> dict[str, Any]:
    prompt, common = job.prompts[prompt_index], job.common
    echoed = _prompt_text(job, prompt) if job.body.echo else ""
    choice: dict[str, Any] = {
        "index": index,
        "text": echoed + "".join(answer.texts),
        "logprobs": None,
        "finish_reason": "length" if job.only_scores else answer.finish_reason,
        "stop_reason": None if job.only_scores else answer.stop_reason,
    }
    if job.body.logprobs is not None:
        offsets = OffsetWriter(prompt, job.samplings[prompt_index], job.context.tokenizer)
        if job.body.echo:
            assert prompt_entries is not None, "the engine gave no prompt logprobs"
            offsets.echo(echoed, prompt_entries)
        scored = offsets.push(
            "".join(answer.texts), answer.token_ids, answer.logprobs, is_last=True
        )
        choice["logprobs"] = _logprobs(job, scored)
    if common.prompt_logprobs is not None:
        assert prompt_entries is not None, "the engine gave no prompt logprobs"
        choice["prompt_logprobs"] = prompt_logprobs(
            prompt_entries, num_top=common.prompt_logprobs, tokenizer=job.context.tokenizer
        )
    if common.return_token_ids:
        choice["prompt_token_ids"] = list(prompt.token_ids)
        choice["token_ids"] = answer.token_ids
    return choice


async def _stream(job: _Job, generation: Generation) -> AsyncGenerator[str, None]:
    n, usage = job.samplings[0].n, job.usage()
    writer = ChunkWriter(job.envelope, usage, job.options)
    offsets: dict[int, OffsetWriter] = {}  # of the sequences that have begun
    with_ids, with_logprobs = bool(job.common.return_token_ids), job.body.logprobs is not None
    async for i, arrived in generation.events():
        event = _without_output(arrived) if job.only_scores else arrived
        usage.count(event)
        index, text, finish = i * n + event.index, event.text, event.finish
        first = index not in offsets
        if first:
            offsets[index] = OffsetWriter(job.prompts[i], job.samplings[i], job.context.tokenizer)
            if job.body.echo:
                echoed = _prompt_text(job, job.prompts[i])
                text = echoed + text
                if with_logprobs:
                    assert event.prompt_logprobs is not None, "the engine gave no prompt logprobs"
                    offsets[index].echo(echoed, event.prompt_logprobs)
        scored = ScoredTokens()
        if with_logprobs:
            scored = offsets[index].push(
                event.text, event.token_ids, event.logprobs or (), is_last=finish is not None
            )
        if not (text or finish or scored.token_ids or (with_ids and event.token_ids)):
            continue  # half a character, or what may become a stop string: it comes with the next
        choice: dict[str, Any] = {"index": index, "text": text, "logprobs": None}
        if scored.token_ids:
            choice["logprobs"] = _logprobs(job, scored)
        choice["finish_reason"] = choice["stop_reason"] = None
        if finish is not None:
            choice["finish_reason"] = "length" if job.only_scores else finish.reason.value
            choice["stop_reason"] = None if job.only_scores else finish.stop_reason
        if with_ids:
            choice["token_ids"] = list(event.token_ids)
            if first:
                choice["prompt_token_ids"] = list(job.prompts[i].token_ids)
        yield writer.chunk(choice)
    if writer.wants_usage:
        yield writer.last()


def _without_output(event: TokenEvent) -> TokenEvent:
    """The event of a request that only scores: the one token that the engine had to sample goes."""
    return TokenEvent(
        request_id=event.request_id,
        index=event.index,
        prompt_logprobs=event.prompt_logprobs,
        finish=event.finish,
    )


def _logprobs(job: _Job, scored: ScoredTokens) -> dict[str, Any]:
    return completion_logprobs(
        scored.token_ids,
        scored.entries,
        num_top=job.body.logprobs or 0,
        offsets=scored.offsets,
        tokenizer=job.context.tokenizer,
        as_ids=bool(job.common.return_tokens_as_token_ids),
    )


def _prompt_text(job: _Job, prompt: Prompt) -> str:
    if prompt.text is not None:
        return prompt.text
    return job.context.tokenizer.decode(prompt.token_ids, skip_special_tokens=False)
