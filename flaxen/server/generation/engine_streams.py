"""The engine's event streams of one HTTP request: submitted, merged, timed, and closed together.

Knows: EngineClient, and the error for each early end. Deliberately does not know bodies or JSON.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Protocol

from flaxen.protocol import (
    EngineBusyError,
    FieldError,
    Finish,
    FinishReason,
    Request,
    TokenEvent,
    TokenEvents,
    UnknownAdapterError,
)
from flaxen.server.context import Context
from flaxen.server.errors import ApiError, internal, invalid, wrong_field
from flaxen.server.metrics import Ended, Metrics
from flaxen.server.request_log import Timing


class Submits(Protocol):
    """What computes requests: an engine, or a search over one. Methods as in EngineClient."""

    def submit(self, request: Request) -> TokenEvents: ...

    def abort(self, request_id: str) -> None: ...


async def start(
    context: Context,
    requests: Sequence[Request],
    field_names: Mapping[str, str],
    timing: Timing,
    *,
    engine: Submits | None = None,
) -> EngineStreams:
    """Submits the engine's requests of one HTTP request, for one model or adapter.

    Args:
      context: the engine and its limits.
      requests: at least one; all with the same number of sequences.
      field_names: as in EngineStreams.
      timing: as in EngineStreams.
      engine: computes the requests; None is the context's.

    Raises:
      ApiError: 400, too many sequences for one request; 404 or 500, the adapter was deleted or
          can't be read.
      Others: as in EngineStreams.
    """
    limit, n = context.config.max_sequences, requests[0].sampling.n
    if len(requests) * n > limit:
        raise invalid(
            f"prompts x n must be at most {limit} sequences on this server, got {len(requests)} x "
            f"{n}: send several requests",
            "n",
        )
    held = await context.hold_adapter(requests[0].adapter)
    names = {"adapter": "model", **field_names}
    engine = engine or context.engine
    streams = EngineStreams(engine, context.metrics, requests, names, timing)
    del held  # the engine's requests hold it from here on
    return streams


class EngineStreams:
    """All sequences of one HTTP request. The creator must await `close`.

    Args:
      engine: computes the requests.
      metrics: the metrics to update.
      requests: the engine requests, one for each prompt.
      field_names: maps the engine's field names to the client's, where these differ, for errors.
      timing: filled in here, for the log and the answer.

    Raises:
      ApiError: 400, the engine refuses a request as invalid.
      UnknownAdapterError: the adapter is no longer known.
      EngineBusyError, EngineClosedError: the engine accepts no request now.
    """

    def __init__(
        self,
        engine: Submits,
        metrics: Metrics,
        requests: Sequence[Request],
        field_names: Mapping[str, str],
        timing: Timing,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._requests = tuple(requests)
        self._readers: list[asyncio.Task[None]] = []
        self._streams: list[TokenEvents] = []
        self.timing = timing
        timing.start_s = time.monotonic()
        self._last: dict[tuple[int, int], float] = {}  # the time of a sequence's latest tokens
        self._first: dict[tuple[int, int], float] = {}  # the time of a sequence's first tokens
        self._started: set[int] = set()  # requests with a first token
        self._most_tokens = [0] * len(self._requests)  # of the sequences that ended, by request
        self._open = {(i, j) for i, r in enumerate(self._requests) for j in range(r.sampling.n)}
        try:
            for request in self._requests:
                self._streams.append(engine.submit(request))
        except BaseException as error:
            # All or nothing: requests queued before the refusal must not run on unread.
            for request in self._requests[: len(self._streams)]:
                engine.abort(request.request_id)
            if isinstance(error, EngineBusyError):
                metrics.rejected("queue_full")
            if isinstance(error, FieldError):
                raise wrong_field(error, field_names) from None
            if isinstance(error, ValueError) and not isinstance(error, UnknownAdapterError):
                raise invalid(str(error)) from None
            raise

    async def events(self) -> AsyncGenerator[tuple[int, TokenEvent], None]:
        """Yields (index of the prompt, event) as they arrive, until all sequences have ended.

        Raises:
          ApiError: a sequence failed (500), timed out (504) or was ended by a shutdown (503).
        """
        async for i, event in self._merged():
            self._observe(i, event)
            if event.finish is not None and not event.finish.reason.is_complete:
                raise self._early_end(self._requests[i], event.finish)
            yield i, event
        if self._open:
            raise internal("the engine ended a stream without finishing its sequences")

    async def close(self) -> None:
        """Aborts whatever still runs. May be called again."""
        now = time.monotonic()
        for i in {i for i, _ in self._open}:
            self._engine.abort(self._requests[i].request_id)
        for _ in self._open:
            self._finished(FinishReason.ABORT, now)
        self._open.clear()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        for stream in self._streams:
            await stream.aclose()

    async def _merged(self) -> AsyncIterator[tuple[int, TokenEvent]]:
        if len(self._streams) == 1:  # the common case needs no task and no queue
            async for event in self._streams[0]:
                yield 0, event
            return
        # Size 1: events for a slow client wait in the streams, which pack them.
        arrivals: asyncio.Queue[tuple[int, TokenEvent | Exception | None]] = asyncio.Queue(1)

        async def read(i: int, stream: TokenEvents) -> None:
            try:
                async for event in stream:
                    await arrivals.put((i, event))
            except Exception as error:
                await arrivals.put((i, error))
            else:
                await arrivals.put((i, None))

        self._readers = [
            asyncio.create_task(read(i, stream)) for i, stream in enumerate(self._streams)
        ]
        left = len(self._readers)
        while left:
            i, arrival = await arrivals.get()
            if isinstance(arrival, Exception):
                raise arrival
            if arrival is None:
                left -= 1
            else:
                yield i, arrival

    def _observe(self, i: int, event: TokenEvent) -> None:
        now, sequence = time.monotonic(), (i, event.index)
        if event.token_ids:
            self.timing.tokens(len(event.token_ids), now)
            if i not in self._started:
                self._started.add(i)
                self._metrics.first_token(now - self.timing.start_s)
            if sequence in self._last:
                self._metrics.next_token(now - self._last[sequence])
            self._first.setdefault(sequence, now)
            self._last[sequence] = now
        if event.finish is not None:
            self._open.discard(sequence)
            self._finished(event.finish.reason, now)
            self._ended(i, sequence, event.finish, now)

    def _finished(self, reason: FinishReason, now: float) -> None:
        self.timing.reasons.append(reason)
        self._metrics.finished(reason, now - self.timing.start_s)

    def _ended(self, i: int, sequence: tuple[int, int], finish: Finish, now: float) -> None:
        sampling, start_s = self._requests[i].sampling, self.timing.start_s
        first = self._first.get(sequence)
        self._metrics.ended(
            Ended(
                finish=finish,
                max_tokens=sampling.max_tokens,
                total_s=now - start_s,
                first_s=None if first is None else first - start_s,
            )
        )
        self._most_tokens[i] = max(self._most_tokens[i], finish.num_output_tokens)
        if not any((i, j) in self._open for j in range(sampling.n)):
            self._metrics.request_ended(sampling.n, self._most_tokens[i])

    def _early_end(self, request: Request, finish: Finish) -> ApiError:
        if finish.reason is FinishReason.IMPOSSIBLE:
            return invalid(finish.error or "the request is impossible", _forbids(request))
        if finish.reason is FinishReason.ERROR:
            return internal(f"request {request.request_id} failed: {finish.error}")
        if finish.reason is FinishReason.TIMEOUT:
            return ApiError(
                504,
                f"the answer was not complete within {request.timeout_s:g} seconds, this server's "
                "limit: ask for fewer tokens, or start it with a larger --request-timeout-s",
                code="timeout",
                type="server_error",
            )
        return ApiError(
            503,
            "the request was cut short: the server is shutting down, or was paused",
            code="aborted",
            type="server_error",
        )


def _forbids(request: Request) -> str | None:
    """The field of a request that most likely forbids every token; None if no field does."""
    sampling = request.sampling
    if sampling.allowed_token_ids is not None:
        return "allowed_token_ids"
    for name in ("logit_bias", "bad_words"):
        if getattr(sampling, name):
            return name
    # A grammar that has come to its end allows only the end, which comes too early.
    is_early = sampling.min_tokens > 0 and request.grammar is not None
    return "min_tokens" if is_early else None
