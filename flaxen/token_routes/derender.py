"""POST /v1/completions/derender and /v1/chat/completions/derender, as vLLM has them: the answer
that clients get, of what /inference/v1/generate answered. Nothing is generated.

So a router can send tokens to servers that generate, and talk in texts itself. Deliberately does
not know streams: of one, the router collects the tokens first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.server.body import read_json
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation import fields_without_effect
from flaxen.server.generation.answer_json import Envelope
from flaxen.server.generation.bodies import ChatBody, parse_two
from flaxen.server.generation.chat import read_prompt
from flaxen.server.generation.logprobs import token_text
from flaxen.server.generation.message import Message, MessageForm
from flaxen.server.generation.message_form import answer_form
from flaxen.server.generation.prompts import run_by_length
from flaxen.server.generation.sampling_fields import check_token_ids
from flaxen.server.generation.structured_fields import read_structure
from flaxen.server.schema import StrictBody, Whole, Wholes, parse
from flaxen.server.usage import Usage
from flaxen.text.tokenizer import Tokenizer

_AS_ID = "token_id:"
_Named = Annotated[str, Field(pattern=r"^token_id:\d{1,10}$")]


class _Answered(BaseModel):
    """A part of another server's answer, which may have more fields than are read here."""

    model_config = ConfigDict(strict=True, extra="ignore")


class TopScore(_Answered):
    """The log-probability of a token, which is named by its id."""

    token: _Named
    logprob: float


class TokenScore(_Answered):
    """The same of a token of the answer, with the likeliest tokens at its place."""

    token: _Named
    logprob: float
    top_logprobs: list[TopScore] = []


class Scores(_Answered):
    """The log-probabilities of a choice."""

    content: list[TokenScore] | None = None


class GeneratedChoice(_Answered):
    """A choice of what /inference/v1/generate answered."""

    index: Whole = 0
    token_ids: Wholes = Field(min_length=1)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: Scores | None = None


class Generated(_Answered):
    """What /inference/v1/generate answered."""

    request_id: str
    choices: list[GeneratedChoice] = Field(min_length=1)
    prompt_logprobs: list[Any] | None = None
    kv_transfer_params: dict[str, Any] | None = None


class DerenderChatBody(StrictBody):
    """The fields of /v1/chat/completions/derender."""

    model: str | None = None
    generate_response: Generated
    prompt_tokens: Whole | None = None  # for the usage
    chat_request: dict[str, Any] | None = None  # the chat that was rendered: says what to look for


class DerenderBody(StrictBody):
    """The fields of /v1/completions/derender."""

    model: str | None = None
    generate_responses: list[Generated] = Field(min_length=1)
    prompt_tokens: list[Whole] | None = None


async def chat(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/chat/completions/derender."""
    body = parse(DerenderChatBody, await read_json(http, context.config, context.bodies))
    model, _ = context.find_model(body.model)
    given = body.generate_response
    form, keeps_special = await _form(context, body.chat_request)
    _check(context, [given], "generate_response")

    def choice(each: GeneratedChoice) -> dict[str, Any]:
        message = Message(form)
        text = _text(context, each, skip_special_tokens=not keeps_special)
        return {
            "index": each.index,
            "message": message.whole(text),
            "logprobs": _chat_scores(context.tokenizer, each.logprobs),
            "finish_reason": message.finish_reason(each.finish_reason),
            "stop_reason": each.stop_reason,
        }

    def answer() -> Response:
        whole = {
            "choices": [choice(each) for each in given.choices],
            "prompt_logprobs": given.prompt_logprobs,
            "usage": _usage([given], [body.prompt_tokens or 0]),
            "kv_transfer_params": given.kv_transfer_params,
        }
        return JSONResponse(_envelope(given, "chat.completion", model) | whole)

    return await run_by_length(answer, _num_tokens([given]), context)


async def completions(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/completions/derender: the choices of all prompts, in their order."""
    body = parse(DerenderBody, await read_json(http, context.config, context.bodies))
    model, _ = context.find_model(body.model)
    given = body.generate_responses
    counts = [0] * len(given) if body.prompt_tokens is None else body.prompt_tokens
    if len(counts) != len(given):
        raise invalid(
            f"prompt_tokens has {len(counts)} numbers, and generate_responses {len(given)} "
            "answers: give a number for each",
            "prompt_tokens",
        )
    _check(context, given, "generate_responses")
    found = [each for one in given for each in one.choices]

    def answer() -> Response:
        choices = [
            {
                "index": i,
                "text": _text(context, each, skip_special_tokens=True),
                "logprobs": _completion_scores(context.tokenizer, each.logprobs),
                "finish_reason": each.finish_reason,
                "stop_reason": each.stop_reason,
            }
            for i, each in enumerate(found)
        ]
        whole = {
            "choices": choices,
            "usage": _usage(given, counts),
            "kv_transfer_params": given[0].kv_transfer_params,
        }
        return JSONResponse(_envelope(given[0], "text_completion", model) | whole)

    return await run_by_length(answer, _num_tokens(given), context)


async def _form(context: Context, fields: dict[str, Any] | None) -> tuple[MessageForm, bool]:
    """How the answers to a chat are read, and whether special tokens are part of that; without the
    chat, all of them is content.

    Raises:
      ApiError: 400, the chat is invalid.
    """
    if fields is None:
        return MessageForm(), False
    known = fields_without_effect.drop_from_body(fields, fields_without_effect.CHAT)
    body, common = parse_two(ChatBody, known)
    prompt, tools = await read_prompt(context, body)
    structure, _ = read_structure(common)
    shown = body.include_reasoning is not False
    form = answer_form(context, prompt, tools, content=structure, include_reasoning=shown)
    return form.message, form.shows_special_tokens


def _check(context: Context, given: Sequence[Generated], field: str) -> None:
    """Raises a 400 if an id is outside the vocabulary."""
    for one in given:
        for choice in one.choices:
            check_token_ids(choice.token_ids, context.engine.info.vocab_size, field)


def _text(context: Context, choice: GeneratedChoice, *, skip_special_tokens: bool) -> str:
    ids = choice.token_ids
    ends = (*context.engine.info.eos_token_ids, choice.stop_reason)
    if choice.finish_reason == "stop" and ids[-1] in ends:
        ids = ids[:-1]  # the token that ended the answer is no part of its text
    return context.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)


def _chat_scores(tokenizer: Tokenizer, scores: Scores | None) -> dict[str, Any] | None:
    if scores is None or scores.content is None:
        return None

    def described(score: TokenScore | TopScore) -> dict[str, Any]:
        token_id = _id(score)
        return {
            "token": token_text(tokenizer, token_id),
            "logprob": score.logprob,
            "bytes": list(tokenizer.token_bytes(token_id)),
        }

    content = [
        described(score) | {"top_logprobs": [described(top) for top in score.top_logprobs]}
        for score in scores.content
    ]
    return {"content": content, "refusal": None}


def _completion_scores(tokenizer: Tokenizer, scores: Scores | None) -> dict[str, Any] | None:
    if scores is None or scores.content is None:
        return None
    tokens = [token_text(tokenizer, _id(score)) for score in scores.content]
    tops = [
        {token_text(tokenizer, _id(top)): top.logprob for top in score.top_logprobs}
        for score in scores.content
    ]
    return {
        "tokens": tokens,
        "token_logprobs": [score.logprob for score in scores.content],
        "top_logprobs": tops,
        "text_offset": list(accumulate(map(len, tokens[:-1]), initial=0)) if tokens else [],
    }


def _id(score: TokenScore | TopScore) -> int:
    return int(score.token.removeprefix(_AS_ID))


def _num_tokens(given: Sequence[Generated]) -> int:
    return sum(len(choice.token_ids) for one in given for choice in one.choices)


def _usage(given: Sequence[Generated], num_prompt: Sequence[int]) -> dict[str, Any]:
    usage = Usage(num_prompt=sum(num_prompt))
    usage.num_output = _num_tokens(given)
    return usage.json()


def _envelope(given: Generated, kind: str, model: str) -> dict[str, Any]:
    envelope = Envelope(id=given.request_id, object=kind, model=model, created=int(time.time()))
    return envelope.fields()
