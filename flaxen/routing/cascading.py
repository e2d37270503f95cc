"""Cascades: a decision's models are asked one after the other, until an answer is sure enough."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace

from flaxen.router.plugins.answers.streams import answer_reply, whole_answer
from flaxen.router.plugins.reply import Json
from flaxen.router.selection.algorithms import Confidence
from flaxen.router.selection.cascade import confidence_of, judge
from flaxen.router.selection.logprobs import as_asked, tokens_of
from flaxen.router.selection.selected import NoModelError, Selected
from flaxen.routing.dispatch import Sent, kept_error
from flaxen.routing.upstream import Answer, UpstreamError, later
from flaxen.server.errors import ApiError

_MOST_BYTES = 16 << 20  # of an answer with its log-probabilities


def is_cascade(selected: Selected) -> bool:
    """Whether a model is only the first that is asked, and its answer decides."""
    return selected.method == "confidence" and not selected.fallback


async def first_sure(
    ask: Callable[[Mapping[str, str]], Awaitable[Sent]],
    has_more: Callable[[Mapping[str, str]], bool],
    opened: AsyncExitStack,
    settings: Confidence,
    api: str,
    body: Json,
) -> Sent:
    """The first answer that is sure enough, else the last that is finished. It is whole before the
    client gets a part of it, streamed or not.

    Args:
      ask: asks the next model for an answer with log-probabilities; gets those that were asked, and
        why they did not do. `opened` ends the answer.
      has_more: whether one is left beside those.
      body: the client's.

    Raises:
      NoModelError, ApiError: no model gave an answer; 502, an answer's confidence is not known, and
        on_error is fail.
    """
    asked, best = dict[str, str](), None
    while True:
        try:
            sent = await ask(asked)
        except (NoModelError, ApiError):
            if best is None:
                raise
            return best
        selected = sent.selected
        if not is_cascade(selected):
            return sent
        confidence, answer = None, None
        try:
            if sent.answer.status == 200:
                whole = await _whole(sent.answer, settings.max_response_bytes or _MOST_BYTES, api)
                confidence = confidence_of(tokens_of(whole, api, body), settings)
                answer = _replied(sent.answer, as_asked(whole, api, body), api, body)
            elif best is None:
                answer = await kept_error(sent.answer)
            why = ""
        except UpstreamError as broken:
            why = f"; {broken}"
        await opened.aclose()
        is_last = not has_more({**asked, selected.candidate.name: ""})
        verdict = judge(confidence, settings, is_last=is_last)
        if verdict.fails:
            told = f"{selected.model} answered, but {verdict.reason}{why}"
            raise later(502, told, "confidence_unknown")
        if answer is not None:
            reason = f"{selected.reason}; {verdict.reason}"
            chosen = replace(selected, reason=reason)
            best = replace(sent, answer=answer, selected=chosen, asked=tuple(asked))
        asked[selected.candidate.name] = f"{verdict.reason}{why}"
        if verdict.is_accepted and best is not None:
            return best


async def _whole(answer: Answer, most: int, api: str) -> dict[str, object]:
    """A whole answer, once it is finished; raises UpstreamError where it does not come to that."""
    body = bytearray()
    async for chunk in answer.chunks:
        body += chunk
        if len(body) > most:
            raise UpstreamError(f"the answer is longer than {most} bytes")
    whole = whole_answer(api, bytes(body), is_stream=answer.is_stream)
    if whole is None:
        raise UpstreamError("the answer did not come to its end")
    return whole


def _replied(answer: Answer, whole: Json, api: str, body: Json) -> Answer:
    """The same answer in the form that the client asks for."""
    reply = answer_reply(api, whole, body)

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield reply.body

    own = {"content-type": reply.media_type, **reply.headers}
    dropped = {"content-length", "cache-control", *own}
    headers = tuple(pair for pair in answer.headers if pair[0] not in dropped)
    return Answer(status=200, headers=(*headers, *own.items()), chunks=chunks())
