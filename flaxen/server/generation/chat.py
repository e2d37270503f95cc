"""POST /v1/chat/completions. Deliberately does not know plain prompts or echo."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from flaxen.protocol import Request, TokenLogprobs
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation import fields_without_effect
from flaxen.server.generation.answer import Asked, Route, answer
from flaxen.server.generation.answer_json import ChunkWriter, WholeSequence
from flaxen.server.generation.bodies import ChatBody
from flaxen.server.generation.continuing import check_open
from flaxen.server.generation.engine_streams import EngineStreams
from flaxen.server.generation.logprobs import chat_logprobs, prompt_logprobs
from flaxen.server.generation.prompts import Prompt, asked_max_tokens, chat_prompt, fit_max_tokens
from flaxen.server.generation.sampling_fields import check_logprobs, sampling_params
from flaxen.server.generation.truncation import truncate
from flaxen.server.usage import Usage
from flaxen.text.tokenizer import Tokenizer


async def create(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/chat/completions."""
    return await answer(context, http, ROUTE)


@dataclass(frozen=True, kw_only=True)
class _ChatView:
    """Everything that is needed to write the answer."""

    tokenizer: Tokenizer
    prompt: Prompt
    n: int
    logprobs: int | None  # the number of top logprobs; None for no logprobs
    prompt_logprobs: int | None
    with_token_ids: bool
    tokens_as_ids: bool

    def described(self, entries: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        """The `logprobs` of a choice."""
        if self.logprobs is None:
            return None
        return chat_logprobs(
            entries, num_top=self.logprobs, tokenizer=self.tokenizer, as_ids=self.tokens_as_ids
        )


async def _parse(context: Context, body: ChatBody, asked: Asked) -> tuple[list[Request], _ChatView]:
    common = asked.common
    check_logprobs(body.top_logprobs, "top_logprobs", context)
    if body.top_logprobs and not body.logprobs:
        raise invalid("top_logprobs needs logprobs=true", "top_logprobs")
    max_tokens, field = asked_max_tokens(body.max_tokens, body.max_completion_tokens)
    prompt = await chat_prompt(
        body.messages,
        add_generation_prompt=body.add_generation_prompt is not False,
        template_kwargs=body.chat_template_kwargs or {},
        add_special_tokens=bool(body.add_special_tokens),
        context=context,
        continues=check_open(body.continue_final_message, body.add_generation_prompt),
    )
    prompt = truncate(prompt, common.truncate_prompt_tokens, max_tokens, context)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    sampling = sampling_params(
        common,
        context,
        max_tokens=fit_max_tokens(
            prompt, max_tokens, None, context, field=field, prompt_field="messages"
        ),
        logprobs=logprobs,
        prompt_logprobs=common.prompt_logprobs,
    )
    view = _ChatView(
        tokenizer=context.tokenizer,
        prompt=prompt,
        n=sampling.n,
        logprobs=logprobs,
        prompt_logprobs=common.prompt_logprobs,
        with_token_ids=bool(common.return_token_ids),
        tokens_as_ids=asked.tokens_as_ids,
    )
    return [asked.request(0, prompt, sampling)], view


async def _collect(view: _ChatView, streams: EngineStreams, usage: Usage) -> dict[str, Any]:
    sequences = [WholeSequence() for _ in range(view.n)]
    whole: dict[str, Any] = {"prompt_logprobs": None, "prompt_token_ids": None}
    async for _, event in streams.events():
        if event.prompt_logprobs is not None:
            whole["prompt_logprobs"] = prompt_logprobs(
                event.prompt_logprobs,
                num_top=view.prompt_logprobs or 0,
                tokenizer=view.tokenizer,
            )
        usage.count(event)
        sequences[event.index].add(event)
    if view.with_token_ids:
        whole["prompt_token_ids"] = list(view.prompt.token_ids)
    whole["choices"] = [_whole_choice(view, index, each) for index, each in enumerate(sequences)]
    return whole


def _whole_choice(view: _ChatView, index: int, sequence: WholeSequence) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": "".join(sequence.texts), "refusal": None},
        "logprobs": view.described(sequence.logprobs),
        "finish_reason": sequence.finish_reason,
        "stop_reason": sequence.stop_reason,
        "token_ids": sequence.token_ids if view.with_token_ids else None,
    }


async def _stream(
    view: _ChatView, streams: EngineStreams, writer: ChunkWriter
) -> AsyncGenerator[str, None]:
    needs_tokens = view.with_token_ids or view.logprobs is not None
    for index in range(view.n):
        opening: dict[str, Any] = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        if view.with_token_ids and index == 0:
            yield writer.chunk(opening, prompt_token_ids=list(view.prompt.token_ids))
        else:
            yield writer.chunk(opening)
    async for _, event in streams.events():
        writer.usage.count(event)
        finish = event.finish
        if not (event.text or finish or (event.token_ids and needs_tokens)):
            continue  # half a character or a possible stop string: it comes with the next event
        choice: dict[str, Any] = {
            "index": event.index,
            "delta": {"content": event.text} if event.text else {},
            "logprobs": view.described(event.logprobs) if event.logprobs else None,
            "finish_reason": None,
        }
        if finish is not None:
            choice["finish_reason"] = finish.reason.wire_name
            choice["stop_reason"] = finish.stop_reason
        if view.with_token_ids:
            choice["token_ids"] = list(event.token_ids)
        yield writer.chunk(choice)
    if writer.wants_usage:
        yield writer.last()


ROUTE = Route(
    id_prefix="chatcmpl",
    object="chat.completion",
    chunk_object="chat.completion.chunk",
    body=ChatBody,
    without_effect=fields_without_effect.CHAT,
    field_names={"prompt_token_ids": "messages", "logprobs": "top_logprobs"},
    parse=_parse,
    collect=_collect,
    stream=_stream,
)
