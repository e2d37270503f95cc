"""POST /v1/completions. Deliberately does not know chat messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from flaxen.protocol import Request, SamplingParams, TokenEvent, TokenLogprobs
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation import fields_without_effect
from flaxen.server.generation.answer import Asked, BodyForm, Route, answer
from flaxen.server.generation.answer_json import ChunkWriter, WholeSequence
from flaxen.server.generation.bodies import CompletionBody
from flaxen.server.generation.engine_streams import EngineStreams
from flaxen.server.generation.logprobs import completion_logprobs, prompt_logprobs
from flaxen.server.generation.prompts import Prompt, asked_max_tokens, fit_max_tokens, read_prompts
from flaxen.server.generation.sampling_fields import check_logprobs, sampling_params
from flaxen.server.generation.text_offset import OffsetWriter, ScoredTokens
from flaxen.server.generation.truncation import truncate
from flaxen.server.usage import Usage
from flaxen.text.tokenizer import Tokenizer

# OpenAI's default if the field is missing; null means up to the model's length.
_DEFAULT_MAX_TOKENS = 16


async def create(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/completions."""
    return await answer(context, http, ROUTE)


@dataclass(frozen=True, kw_only=True)
class _CompletionView:
    """Everything that is needed to write the answer."""

    tokenizer: Tokenizer
    prompts: list[Prompt]
    samplings: list[SamplingParams]  # one for each prompt
    echo: bool
    only_prompt_logprobs: bool  # only the prompt's logprobs are requested, no output
    logprobs: int | None  # the number of top logprobs; None for no logprobs
    prompt_logprobs: int | None
    with_token_ids: bool
    tokens_as_ids: bool

    @property
    def n(self) -> int:
        """The number of sequences of each prompt."""
        return self.samplings[0].n

    def echoed(self, prompt: Prompt) -> str:
        """The prompt's text if it is echoed before the output, else ""."""
        if not self.echo:
            return ""
        if prompt.text is not None:
            return prompt.text
        return self.tokenizer.decode(prompt.token_ids, skip_special_tokens=False)

    def described(self, scored: ScoredTokens) -> dict[str, Any]:
        """The `logprobs` of a choice."""
        return completion_logprobs(
            scored.token_ids,
            scored.entries,
            num_top=None if self.samplings[0].logprob_token_ids else self.logprobs or 0,
            offsets=scored.offsets,
            tokenizer=self.tokenizer,
            as_ids=self.tokens_as_ids,
        )


async def _parse(
    context: Context, body: CompletionBody, asked: Asked
) -> tuple[list[Request], _CompletionView]:
    common = asked.common
    check_logprobs(body.logprobs, "logprobs", context)
    max_tokens, field = asked_max_tokens(body.max_tokens, body.max_completion_tokens)
    only_prompt_logprobs = max_tokens == 0
    if only_prompt_logprobs and not body.echo:
        raise invalid(f"{field} must be at least 1 without echo=true, got 0", field)
    many = common.n is not None and common.n > 1
    if common.stream and body.echo and body.logprobs is not None and many:
        raise invalid("echo with logprobs and n > 1 can't be streamed: set stream=false", "stream")

    prompts = await read_prompts(
        body.prompt, add_special_tokens=body.add_special_tokens is not False, context=context
    )
    default = None if field in body.model_fields_set else _DEFAULT_MAX_TOKENS
    # The engine always samples a token; _without_output drops it if only prompt logprobs are
    # requested.
    num_new = 1 if only_prompt_logprobs else max_tokens
    room = num_new or default  # of the answer
    prompts = [truncate(prompt, common, room, context) for prompt in prompts]
    # Prompt logprobs are needed for echo, for the field prompt_logprobs, or for both.
    counts = [common.prompt_logprobs, body.logprobs if body.echo else None]
    num_prompt_logprobs = max((count for count in counts if count is not None), default=None)
    samplings = [
        sampling_params(
            common,
            context,
            max_tokens=fit_max_tokens(
                prompt, num_new, default, context, field=field, prompt_field="prompt"
            ),
            logprobs=body.logprobs,
            prompt_logprobs=num_prompt_logprobs,
        )
        for prompt in prompts
    ]
    view = _CompletionView(
        tokenizer=context.tokenizer,
        prompts=prompts,
        samplings=samplings,
        echo=bool(body.echo),
        only_prompt_logprobs=only_prompt_logprobs,
        logprobs=body.logprobs,
        prompt_logprobs=common.prompt_logprobs,
        with_token_ids=bool(common.return_token_ids),
        tokens_as_ids=asked.tokens_as_ids,
    )
    pairs = zip(prompts, samplings, strict=True)
    return [asked.request(i, prompt, sampling) for i, (prompt, sampling) in enumerate(pairs)], view


async def _collect(view: _CompletionView, streams: EngineStreams, usage: Usage) -> dict[str, Any]:
    n = view.n
    sequences = [WholeSequence() for _ in range(len(view.prompts) * n)]
    prompt_entries: dict[int, tuple[TokenLogprobs | None, ...]] = {}
    async for i, event in streams.events():
        if event.prompt_logprobs is not None:
            prompt_entries[i] = event.prompt_logprobs
        event = _without_output(event) if view.only_prompt_logprobs else event
        usage.count(event)
        sequences[i * n + event.index].add(event)
    choices = [
        _whole_choice(view, index, index // n, sequence, prompt_entries.get(index // n))
        for index, sequence in enumerate(sequences)
    ]
    return {"choices": choices}


def _whole_choice(
    view: _CompletionView,
    index: int,
    prompt_index: int,
    sequence: WholeSequence,
    prompt_entries: tuple[TokenLogprobs | None, ...] | None,
) -> dict[str, Any]:
    prompt = view.prompts[prompt_index]
    echoed = view.echoed(prompt)
    choice: dict[str, Any] = {
        "index": index,
        "text": echoed + "".join(sequence.texts),
        "logprobs": None,
        "finish_reason": "length" if view.only_prompt_logprobs else sequence.finish_reason,
        "stop_reason": None if view.only_prompt_logprobs else sequence.stop_reason,
        "token_ids": sequence.token_ids if view.with_token_ids else None,
        "prompt_token_ids": list(prompt.token_ids) if view.with_token_ids else None,
        "prompt_logprobs": None,
    }
    if view.logprobs is not None:
        offsets = OffsetWriter(prompt, view.samplings[prompt_index], view.tokenizer)
        if view.echo:
            assert prompt_entries is not None, "the engine gave no prompt logprobs"
            offsets.echo(echoed, prompt_entries)
        scored = offsets.push(
            "".join(sequence.texts), sequence.token_ids, sequence.logprobs, is_last=True
        )
        choice["logprobs"] = view.described(scored)
    if view.prompt_logprobs is not None:
        assert prompt_entries is not None, "the engine gave no prompt logprobs"
        choice["prompt_logprobs"] = prompt_logprobs(
            prompt_entries, num_top=view.prompt_logprobs, tokenizer=view.tokenizer
        )
    return choice


async def _stream(
    view: _CompletionView, streams: EngineStreams, writer: ChunkWriter
) -> AsyncGenerator[str, None]:
    n, with_logprobs = view.n, view.logprobs is not None
    offsets: dict[int, OffsetWriter] = {}  # of the sequences with events so far
    async for i, arrived in streams.events():
        event = _without_output(arrived) if view.only_prompt_logprobs else arrived
        writer.usage.count(event)
        index, text, finish = i * n + event.index, event.text, event.finish
        first = index not in offsets
        if first:
            offsets[index] = OffsetWriter(view.prompts[i], view.samplings[i], view.tokenizer)
            if view.echo:
                echoed = view.echoed(view.prompts[i])
                text = echoed + text
                if with_logprobs:
                    assert event.prompt_logprobs is not None, "the engine gave no prompt logprobs"
                    offsets[index].echo(echoed, event.prompt_logprobs)
        scored = ScoredTokens()
        if with_logprobs:
            scored = offsets[index].push(
                event.text, event.token_ids, event.logprobs or (), is_last=finish is not None
            )
        has_tokens = scored.token_ids or (view.with_token_ids and event.token_ids)
        if not (text or finish or has_tokens):
            continue  # half a character or a possible stop string: it comes with the next event
        choice: dict[str, Any] = {"index": index, "text": text, "logprobs": None}
        if scored.token_ids:
            choice["logprobs"] = view.described(scored)
        choice["finish_reason"] = choice["stop_reason"] = None
        if finish is not None:
            choice["finish_reason"] = (
                "length" if view.only_prompt_logprobs else finish.reason.wire_name
            )
            choice["stop_reason"] = None if view.only_prompt_logprobs else finish.stop_reason
        if view.with_token_ids:
            choice["token_ids"] = list(event.token_ids)
            if first:
                choice["prompt_token_ids"] = list(view.prompts[i].token_ids)
        yield writer.chunk(choice)
    if writer.wants_usage:
        yield writer.last()


def _without_output(event: TokenEvent) -> TokenEvent:
    """Removes the one token that the engine had to sample for a request without output."""
    return TokenEvent(
        request_id=event.request_id,
        index=event.index,
        prompt_logprobs=event.prompt_logprobs,
        finish=event.finish,
    )


BODY = BodyForm(
    id_prefix="cmpl",
    body=CompletionBody,
    without_effect=fields_without_effect.COMPLETION,
    field_names={"prompt_token_ids": "prompt"},
    parse=_parse,
)
ROUTE = Route(
    reads=BODY,
    object="text_completion",
    chunk_object="text_completion",
    collect=_collect,
    stream=_stream,
)
