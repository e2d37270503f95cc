"""Cascades: a decision's models are asked one after the other, until an answer is sure enough."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

from flaxen.router.plugins.answers.streams import answer_reply, whole_answer
from flaxen.router.selection.algorithms import Confidence
from flaxen.router.selection.cascade import confidence_of, judge
from flaxen.router.selection.logprobs import as_asked, tokens_of
from flaxen.router.selection.selected import NoModelError, Selected
from flaxen.routing.dispatch import Sent, kept_error
from flaxen.routing.given import Given
from flaxen.routing.upstream import Answer, UpstreamError, later
from flaxen.server.errors import ApiError

_MOST_BYTES = 16 << 20  # of an answer with its log-probabilities


def is_cascade(selected: Selected) -> bool:
    """Whether a model is only the first that is asked, and its answer decides."""
    return selected.method == "confidence" and not selected.fallback


async def first_sure(
    ask: Callable[[], Awaitable[Sent]],
    asked: dict[str, str],
    opened: AsyncExitStack,
    settings: Confidence,
    given: Given,
) -> Sent:
    """The first answer that is sure enough, else the last that is finished. It is whole before the
    client gets a part of it, streamed or not.

    Args:
      ask: asks the next model, for an answer with log-probabilities; `opened` ends it.
      asked: gets the candidates that were asked, by name, and why their answers did not do; none of
        them is asked again.

    Raises:
      NoModelError, ApiError: no model gave an answer; 502, an answer's confidence is not known, and
        on_error is fail.
    """
    best: Sent | None = None
    while True:
        try:
            sent = await ask()
        except (NoModelError, ApiError):
            if best is None:
                raise
            return best
        selected, earlier, why = sent.selected, tuple(asked), ""
        if not is_cascade(selected):
            return sent
        confidence, answer = None, None
        try:
            if sent.answer.status == 200:
                answer, confidence = await _judged(sent.answer, settings, given)
            elif best is None:
                answer = await kept_error(sent.answer)
        except UpstreamError as broken:
            why = f"; {broken}"
        await opened.aclose()
        verdict = judge(confidence, settings)
        asked[selected.candidate.name] = verdict.reason + why
        if verdict.fails:
            told = f"{selected.model} answered, but {verdict.reason}{why}"
            raise later(502, told, "confidence_unknown")
        if answer is not None:
            chosen = replace(selected, reason=f"{selected.reason}; {verdict.reason}")
            best = replace(sent, answer=answer, selected=chosen, asked=earlier)
            if verdict.is_accepted:
                return best


async def _judged(
    answer: Answer, settings: Confidence, given: Given
) -> tuple[Answer, float | None]:
    """An answer in the form that the client asks for, once it is finished, and how sure it is.

    Raises:
      UpstreamError: it does not come to its end, or is too long.
    """
    api, body, most = given.api, bytearray(), settings.max_response_bytes or _MOST_BYTES
    async for chunk in answer.chunks:
        body += chunk
        if len(body) > most:
            raise UpstreamError(f"the answer is longer than {most} bytes")
    whole = whole_answer(api, bytes(body), is_stream=answer.is_stream)
    if whole is None:
        raise UpstreamError("the answer did not come to its end")
    confidence = confidence_of(tokens_of(whole, api, given.body), settings)
    reply = answer_reply(api, as_asked(whole, api, given.body), given.body)

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield reply.body

    own = {"content-type": f"{reply.media_type}; charset=utf-8", **reply.headers}
    headers = tuple(pair for pair in answer.headers if pair[0] not in {"content-length", *own})
    return replace(answer, headers=(*headers, *own.items()), chunks=chunks()), confidence
