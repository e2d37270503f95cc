"""POST /v1/chat/completions. Deliberately does not know plain prompts or echo."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from flaxen.protocol import Request, TokenLogprobs
from flaxen.server.context import Context
from flaxen.server.errors import ApiError, invalid
from flaxen.server.generation import fields_without_effect
from flaxen.server.generation.answer import Asked, BodyForm, Route, answer
from flaxen.server.generation.answer_json import ChunkWriter, WholeSequence
from flaxen.server.generation.bodies import ChatBody
from flaxen.server.generation.chat_prompts import chat_prompt, template_source
from flaxen.server.generation.continuing import check_open
from flaxen.server.generation.engine_streams import EngineStreams
from flaxen.server.generation.logprobs import chat_logprobs, prompt_logprobs
from flaxen.server.generation.message import Message, MessageForm
from flaxen.server.generation.message_form import AnswerForm, answer_form
from flaxen.server.generation.messages import read_messages, text_of
from flaxen.server.generation.old_functions import read_tools_or_functions
from flaxen.server.generation.prediction import read_prediction
from flaxen.server.generation.prompts import Prompt, asked_max_tokens, fit_max_tokens
from flaxen.server.generation.reasoning import effort_variables, with_budget
from flaxen.server.generation.sampling_fields import check_logprobs, sampling_params
from flaxen.server.generation.structured_fields import grammar_of
from flaxen.server.generation.tools import ToolUse
from flaxen.server.generation.truncation import truncate
from flaxen.server.usage import Usage
from flaxen.text.tokenizer import Tokenizer

# While a long call is held back, an empty delta after so many events shows that the answer goes on.
_MOST_HELD = 64


async def create(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/chat/completions."""
    return await answer(context, http, ROUTE)


@dataclass(frozen=True, kw_only=True)
class ChatView:
    """Everything that is needed to write the answer of a chat."""

    tokenizer: Tokenizer
    prompt: Prompt
    message: MessageForm
    body: ChatBody
    n: int
    logprobs: int | None  # the number of top logprobs; None for no logprobs
    echoed: str  # the text of the last message, which the answer begins with
    names_tokens: bool  # the top logprobs are those of tokens that the request named
    prompt_logprobs: int | None
    with_token_ids: bool
    tokens_as_ids: bool

    def described(self, entries: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        """The `logprobs` of a choice."""
        if self.logprobs is None:
            return None
        num_top = None if self.names_tokens else self.logprobs
        return chat_logprobs(
            entries, num_top=num_top, tokenizer=self.tokenizer, as_ids=self.tokens_as_ids
        )


async def parse(context: Context, body: ChatBody, asked: Asked) -> tuple[list[Request], ChatView]:
    """What a chat asks of the engine, and what its answer needs.

    Raises:
      ApiError: 400, a value is invalid or exceeds a limit; and as in `chat_prompt`.
    """
    common = asked.common
    check_logprobs(body.top_logprobs, "top_logprobs", context)
    if body.top_logprobs and not body.logprobs:
        raise invalid("top_logprobs needs logprobs=true", "top_logprobs")
    predicted = await read_prediction(body, context)
    max_tokens, field = asked_max_tokens(body.max_tokens, body.max_completion_tokens)
    prompt, tools = await read_prompt(context, body)
    form = answer_form(
        context,
        prompt,
        tools,
        content=asked.structure,
        include_reasoning=body.include_reasoning is not False,
    )
    if form.structure != asked.structure:
        asked = await _with_structure(context, asked, form)
    budgeted = with_budget(asked.make_grammar, body.thinking_token_budget, form, context.tokenizer)
    asked = replace(asked, make_grammar=budgeted)
    prompt = truncate(prompt, common, max_tokens, context)
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
    if form.shows_special_tokens:
        sampling = replace(sampling, skip_special_tokens=False)
    view = ChatView(
        tokenizer=context.tokenizer,
        prompt=prompt,
        message=form.message,
        body=body,
        n=sampling.n,
        logprobs=logprobs,
        echoed=_echoed(body),
        names_tokens=bool(common.logprob_token_ids),
        prompt_logprobs=common.prompt_logprobs,
        with_token_ids=bool(common.return_token_ids),
        tokens_as_ids=asked.tokens_as_ids,
    )
    request = replace(asked.request(0, prompt, sampling), prediction_token_ids=predicted)
    return [request], view


async def _with_structure(context: Context, asked: Asked, form: AnswerForm) -> Asked:
    """The same with the structure of the answer's form.

    Raises:
      ApiError: 400, it can't be followed, and was asked for; and as in `grammar_of`.
    """
    try:
        make_grammar = await grammar_of(form.structure, form.structure_field, context)
    except ApiError as error:
        if form.is_help and error.status == 400:
            return asked
        raise
    return replace(asked, structure=form.structure, make_grammar=make_grammar)


async def read_prompt(context: Context, body: ChatBody) -> tuple[Prompt, ToolUse]:
    """The prompt that a chat is for the model, and the tools that the answer may call.

    Raises:
      ApiError: 400, the tools are invalid; and as in `chat_prompt`.
    """
    tools = read_tools_or_functions(body)
    prompt = await chat_prompt(
        body.messages,
        add_generation_prompt=body.add_generation_prompt is not False,
        template_kwargs=_template_variables(body, tools, context),
        add_special_tokens=bool(body.add_special_tokens),
        context=context,
        tools=tools,
        documents=body.documents,
        continues=check_open(body.continue_final_message, body.add_generation_prompt),
    )
    return prompt, tools


def _template_variables(body: ChatBody, tools: ToolUse, context: Context) -> dict[str, Any]:
    given = body.chat_template_kwargs or {}
    source, reasons = template_source(context, tools), context.formats.reasons
    return {**given, **effort_variables(body.reasoning_effort, given, source, reasons=reasons)}


def _echoed(body: ChatBody) -> str:
    """The last message's text, if the body asks for it and it is the assistant's; else ""."""
    if not body.echo:
        return ""
    last = read_messages(body.messages)[-1]
    if last["role"] != "assistant":
        return ""
    return text_of(last["content"] or "")


async def _collect(view: ChatView, streams: EngineStreams, usage: Usage) -> dict[str, Any]:
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
    whole["choices"] = [whole_choice(view, index, each) for index, each in enumerate(sequences)]
    return whole


def whole_choice(view: ChatView, index: int, sequence: WholeSequence) -> dict[str, Any]:
    """The choice of a whole answer that a sequence is."""
    message = Message(view.message)
    whole = message.whole("".join(sequence.texts))
    if view.echoed:
        whole["content"] = view.echoed + (whole["content"] or "")
    return {
        "index": index,
        "message": whole,
        "logprobs": view.described(sequence.logprobs),
        "finish_reason": message.finish_reason(sequence.finish_reason),
        "stop_reason": sequence.stop_reason,
        "token_ids": sequence.token_ids if view.with_token_ids else None,
    }


async def _stream(
    view: ChatView, streams: EngineStreams, writer: ChunkWriter
) -> AsyncGenerator[str, None]:
    needs_tokens = view.with_token_ids or view.logprobs is not None
    num_held = 0  # events since the last chunk
    for index in range(view.n):
        opening = _delta(index, {"role": "assistant", "content": view.echoed})
        if view.with_token_ids and index == 0:
            yield writer.chunk(opening, prompt_token_ids=list(view.prompt.token_ids))
        else:
            yield writer.chunk(opening)
    messages = [Message(view.message) for _ in range(view.n)]
    async for _, event in streams.events():
        writer.usage.count(event)
        message, finish = messages[event.index], event.finish
        deltas = message.push(event.text, is_last=finish is not None)
        if not (deltas or finish or (event.token_ids and needs_tokens)):
            num_held = (num_held + 1) % _MOST_HELD
            if num_held:
                continue  # text that is held back: it comes with a later event
        *before, last = deltas or [{}]
        for delta in before:
            yield writer.chunk(_delta(event.index, delta))
        choice = _delta(event.index, last)
        # The event's tokens come with the last of its deltas.
        choice["logprobs"] = view.described(event.logprobs) if event.logprobs else None
        if finish is not None:
            choice["finish_reason"] = message.finish_reason(finish.reason.wire_name)
            choice["stop_reason"] = finish.stop_reason
        if view.with_token_ids:
            choice["token_ids"] = list(event.token_ids)
        yield writer.chunk(choice)
    if writer.wants_usage:
        yield writer.last()


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


BODY = BodyForm(
    id_prefix="chatcmpl",
    body=ChatBody,
    without_effect=fields_without_effect.CHAT,
    field_names={
        "prompt_token_ids": "messages",
        "logprobs": "top_logprobs",
        "prediction_token_ids": "prediction",
    },
    parse=parse,
)
ROUTE = Route(
    reads=BODY,
    object="chat.completion",
    chunk_object="chat.completion.chunk",
    collect=_collect,
    stream=_stream,
)
