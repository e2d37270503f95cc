"""The line of the log that each HTTP request gets at its end.

The guard makes a RequestLog, the route fills it in, and the guard writes it once: a request is one
line, however it ended. The line never holds a prompt, an answer or a key. Deliberately does not
know routes, nor how lines are formatted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from flaxen.protocol import FinishReason
from flaxen.server.errors import ApiError
from flaxen.server.usage import Usage

logger = logging.getLogger("flaxen.server")

# Asked for every few seconds by what watches the server.
_QUIET_PATHS = ("/health", "/v1/health", "/ping", "/load", "/metrics")
# Asked for again and again by a client that waits for what has lines of its own, or by the page.
_POLLED = (
    *("/v1/fine_tuning/jobs/", "/v1/responses/", "/v1/batches/"),
    *("/page/", "/api/v1/routing/decisions"),
)
_MAX_PATH_CHARS = 200
_MAX_ERROR_CHARS = 500


@dataclass(kw_only=True)
class Timing:
    """When the tokens of a request came, and how its sequences ended."""

    start_s: float = field(default_factory=time.monotonic)
    first_s: float | None = None  # of the first tokens; None: there are none yet
    last_s: float = 0.0  # of the latest tokens
    num_after_first: int = 0  # tokens after those that came first
    reasons: list[FinishReason] = field(default_factory=list)

    def tokens(self, count: int, now: float) -> None:
        """Records that tokens came."""
        if self.first_s is None:
            self.first_s = now
        else:
            self.num_after_first += count
        self.last_s = now

    def fields(self) -> Iterator[tuple[str, Any]]:
        """The time to the first token, the tokens per second after it, and the finish reasons."""
        if self.first_s is not None:
            yield "ttft_s", round(self.first_s - self.start_s, 3)
            if self.last_s > self.first_s:
                rate = self.num_after_first / (self.last_s - self.first_s)
                yield "tok_per_s", round(rate, 1)
        if self.reasons:
            yield "finish", ",".join(dict.fromkeys(self.reasons))


@dataclass(frozen=True, kw_only=True)
class GenerationLog:
    """What the line says about a request that generates."""

    model: str
    adapter: str | None
    stream: bool
    num_prompts: int
    n: int
    usage: Usage
    timing: Timing

    def fields(self) -> Iterator[tuple[str, Any]]:
        """The names and values for the line."""
        yield "model", self.model
        if self.adapter is not None:
            yield "adapter", self.adapter
        yield "prompt_tokens", self.usage.num_prompt
        yield "cached_tokens", self.usage.num_cached
        yield "output_tokens", self.usage.num_output
        yield from self.timing.fields()
        yield "stream", self.stream
        if self.num_prompts > 1:
            yield "prompts", self.num_prompts
        yield "n", self.n


@dataclass(kw_only=True)
class RequestLog:
    """What the log says about one HTTP request."""

    method: str
    path: str
    start_s: float = field(default_factory=time.monotonic)
    status: int = 0  # 0: no answer was begun
    generation: GenerationLog | None = None
    error: ApiError | None = None

    def noted(self, error: ApiError) -> None:
        """Notes an error that came after the answer's status was sent."""
        self.error = error

    def write(self, request_id: str) -> None:
        """Writes the line."""
        level = self._level()
        if not logger.isEnabledFor(level):
            return
        # The path is decoded: repr() prevents a line break in it from forging a line. The query
        # and the body are left out, because they may hold a user's text.
        path = self.path[:_MAX_PATH_CHARS]
        shown = path if path.isprintable() and " " not in path else repr(path)
        values = {"method": self.method, "path": shown, "status": self.status or "no answer"}
        cause = None if self.error is None else self.error.cause
        logger.log(
            level,
            "%(method)s %(path)s %(status)s",
            values,
            exc_info=cause if isinstance(cause, Exception) else None,
            extra=dict(self._fields(request_id)),
        )

    def _level(self) -> int:
        if self.error is not None and self.error.cause is not None:
            return logging.ERROR  # a fault of the server's own
        if self.path in _QUIET_PATHS:
            return logging.DEBUG
        # An error inside a stream comes after the status 200.
        status = self.status if self.error is None else self.error.status
        if self.method == "GET" and self.path.startswith(_POLLED) and 0 < status < 400:
            return logging.DEBUG
        return logging.WARNING if status >= 500 else logging.INFO

    def _fields(self, request_id: str) -> Iterator[tuple[str, Any]]:
        if self.generation is not None:
            yield from self.generation.fields()
        if self.error is not None:
            yield from _error_fields(self.error)
        yield "seconds", round(time.monotonic() - self.start_s, 3)
        yield "request_id", request_id


def _error_fields(error: ApiError) -> Iterator[tuple[str, Any]]:
    if error.code is not None:
        yield "code", error.code
    if error.param is not None:
        yield "param", error.param
    if isinstance(error.cause, str):
        yield "error", error.cause
    elif error.cause is None and not error.quotes_values:
        yield "error", error.message[:_MAX_ERROR_CHARS]
