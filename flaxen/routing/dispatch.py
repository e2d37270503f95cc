"""Dispatching: sends a decided request to models until one of them begins to answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from flaxen.router.selection.candidate import Candidate, Facts
from flaxen.router.selection.selected import NoModelError, Selected
from flaxen.router_config.fallback import Fallback
from flaxen.routing.deciding import Routed
from flaxen.routing.observed import Observed
from flaxen.routing.upstream import Answer, Call, Upstream, UpstreamError, later
from flaxen.server.errors import ApiError

_MOST_OF_ERROR = 65_536  # bytes of an error's body that are kept while others are tried
_BUSY = 429  # a model that is busy has not failed: its circuit stays closed
_LATE = "it did not begin to answer within"


@dataclass(frozen=True, kw_only=True)
class Sent:
    """An answer that has begun: of which model and why, and why others failed before, by name.

    Attributes:
      asked: the candidates of a cascade whose answers were not sure enough, by name.
    """

    selected: Selected
    failed: Mapping[str, str]
    answer: Answer
    asked: tuple[str, ...] = ()


class Dispatcher:
    """Sends requests, and keeps what it sees of models."""

    def __init__(self) -> None:
        self.observed: defaultdict[str, Observed] = defaultdict(Observed)

    async def send(
        self,
        routed: Routed,
        facts: Callable[[], Facts],
        call_of: Callable[[Candidate], tuple[Upstream, Call]],
        opened: AsyncExitStack,
    ) -> Sent:
        """Returns the first answer that begins and is no failure, or the last failure; `opened`
        ends it.

        An attempt has a deadline, and all of them together. After the first byte nothing is tried
        again. A model's error is passed on as it is where no other model is left.

        Args:
          facts: what is known of models now.
          call_of: where a candidate is, and what it is asked.

        Raises:
          NoModelError: no model may answer.
          ApiError: 502 or 504, no model began to answer.
        """
        fallback, failed = routed.fallback, dict[str, str]()
        until = time.monotonic() + fallback.total_s
        refused: Sent | None = None
        for _ in range(fallback.max_attempts if fallback.enabled else 1):
            try:
                selected = routed.select(facts(), failed)
            except NoModelError:
                if not failed:
                    raise
                break
            left_s = min(fallback.per_attempt_s, until - time.monotonic())
            upstream, call = call_of(selected.candidate)
            try:
                answer = await self.attempt(
                    selected.model, upstream, call, fallback, left_s, opened
                )
            except UpstreamError as error:
                failed[selected.model] = str(error)
                continue
            sent = Sent(selected=selected, failed=dict(failed), answer=answer)
            if answer.status not in fallback.retryable_status_codes:
                return sent
            refused = replace(sent, answer=await kept_error(answer))
            await opened.aclose()
            failed[selected.model] = f"status {answer.status}"
        if refused is None:
            raise no_answer(failed)
        return refused

    async def attempt(
        self,
        model: str,
        upstream: Upstream,
        call: Call,
        fallback: Fallback,
        left_s: float,
        opened: AsyncExitStack,
    ) -> Answer:
        """Sends a request to one model, and returns its answer with the first chunk there; `opened`
        ends it.

        Raises:
          UpstreamError: no answer began within left_s seconds.
        """
        seen, begin_s, is_good = self.observed[model], time.monotonic(), None
        is_probe = seen.breaker.begin()
        try:
            async with AsyncExitStack() as stack:
                stack.enter_context(seen.in_flight())
                async with asyncio.timeout(max(left_s, 0.0)):
                    answer = await upstream.send(call)
                    stack.push_async_callback(answer.chunks.aclose)
                    first = await anext(answer.chunks, b"")
                failures = {*fallback.retryable_status_codes} - {_BUSY}
                is_good = answer.status not in failures
                await opened.enter_async_context(stack.pop_all())
        except TimeoutError:
            is_good = False
            raise UpstreamError(f"{_LATE} {left_s:.3g} s") from None
        except UpstreamError:
            is_good = False
            raise
        finally:
            seen.breaker.end(is_probe, is_good, time.monotonic(), fallback.circuit_breaker)
        chunks = _watched(answer, first, seen, begin_s, fallback.per_attempt_s)
        return replace(answer, chunks=chunks)


def no_answer(failed: Mapping[str, str]) -> ApiError:
    """The error of a request that no model answered; `failed` has why, by model."""
    told = "; ".join(f"{model}: {reason}" for model, reason in failed.items())
    status = 504 if all(_LATE in reason for reason in failed.values()) else 502
    return later(status, f"no model answered: {told}", "upstream_failed")


async def kept_error(answer: Answer) -> Answer:
    """An error with its body read, so that its request can end while others are tried."""
    body = b""
    with contextlib.suppress(UpstreamError):  # what came of it is passed on
        async for chunk in answer.chunks:
            body += chunk
            if len(body) > _MOST_OF_ERROR:
                break

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    headers = tuple(each for each in answer.headers if each[0] != "content-length")
    return replace(answer, headers=headers, chunks=whole())


async def _watched(
    answer: Answer, first: bytes, seen: Observed, begin_s: float, idle_s: float
) -> AsyncGenerator[bytes, None]:
    """The chunks of an answer, while its latencies are measured; one that stops coming ends it."""
    first_s = time.monotonic()
    if answer.is_stream:
        seen.ttft.add(first_s, (first_s - begin_s) * 1e3)
    num_events, chunk = 0, first
    while chunk:
        num_events += chunk.count(b"data:")
        yield chunk
        try:
            async with asyncio.timeout(idle_s):
                chunk = await anext(answer.chunks, b"")
        except TimeoutError:
            raise UpstreamError(f"nothing came for {idle_s:g} s") from None
    last_s = time.monotonic()
    if answer.is_stream and num_events > 1:
        seen.tpot.add(last_s, (last_s - first_s) * 1e3 / (num_events - 1))
