"""What both generating routes write around their choices: ids, usage, and one chunk of a stream.

Deliberately does not know what is in a choice.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request as HttpRequest

from flaxen.protocol import Request, SamplingParams, TokenEvent, TokenLogprobs
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation.generation import Generation
from flaxen.server.generation.prompts import Prompt
from flaxen.server.guard import check_request_id
from flaxen.server.schema import CommonBody, StreamOptions
from flaxen.server.sse import to_json


async def start_generation(
    context: Context,
    answer_id: str,
    prompts: Sequence[Prompt],
    samplings: Sequence[SamplingParams],
    cache_salt: str | None,
    adapter: str | None,
    field_names: Mapping[str, str],
) -> Generation:
    """Submits one engine request for each prompt.

    Args:
      context: the engine and its limits.
      answer_id: of the answer, from which the requests' ids are made.
      prompts: at least one.
      samplings: one for each prompt.
      cache_salt: as the client gave it.
      adapter: the name of the one that the model's name means.
      field_names: as Generation takes them.

    Raises:
      ApiError: 400, more sequences than one request may have; 404 or 500, its adapter is deleted
        or can't be read.
      Others: as Generation.
    """
    limit, n = context.config.max_sequences, samplings[0].n
    if len(prompts) * n > limit:
        raise invalid(
            f"prompts x n must be at most {limit} sequences on this server, got {len(prompts)} x "
            f"{n}: send several requests",
            "n",
        )
    # The client chooses the answer's id (x-request-id), and may choose one twice: the engine's
    # ids end in something of our own.
    unique = uuid.uuid4().hex[:12]
    requests = [
        Request(
            request_id=f"{answer_id}-{unique}-{i}",
            prompt_token_ids=prompt.token_ids,
            sampling=sampling,
            cache_salt=cache_salt or "",
            timeout_s=context.config.request_timeout_s,
            adapter=adapter,
        )
        for i, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True))
    ]
    names = {"adapter": "model", **field_names}
    held = await context.hold_adapter(adapter)
    generation = Generation(context.engine, context.metrics, requests, names)
    del held  # from here on the requests have it
    return generation


def check_cache_salt(common: CommonBody) -> None:
    """Raises a 400 for a salt that would separate nothing."""
    if common.cache_salt == "":
        raise invalid("cache_salt must not be empty: leave it out to share prefixes", "cache_salt")


@dataclass(kw_only=True)
class Usage:
    """Tokens of one HTTP request, counted up as events come."""

    num_prompt: int
    num_output: int = 0
    num_cached: int = 0

    def count(self, event: TokenEvent) -> None:
        """Adds an event's tokens."""
        self.num_output += len(event.token_ids)
        # The other sequences of a prompt find what the first one computed: that is no saving.
        if event.finish is not None and event.index == 0:
            self.num_cached += event.finish.num_cached_tokens

    def json(self) -> dict[str, Any]:
        """OpenAI's `usage`."""
        return {
            "prompt_tokens": self.num_prompt,
            "completion_tokens": self.num_output,
            "total_tokens": self.num_prompt + self.num_output,
            "prompt_tokens_details": {"cached_tokens": self.num_cached},
        }


@dataclass(kw_only=True)
class Answer:
    """Everything that came of one sequence, for an answer in one piece."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def add(self, event: TokenEvent) -> None:
        """Appends an event."""
        self.texts.append(event.text)
        self.token_ids.extend(event.token_ids)
        self.logprobs.extend(event.logprobs or ())
        if event.finish is not None:
            self.finish_reason = event.finish.reason.value
            self.stop_reason = event.finish.stop_reason


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """The fields that every chunk and the whole answer begin with."""

    id: str
    object: str
    model: str
    created: int

    def fields(self) -> dict[str, Any]:
        """The same as a dict."""
        return {
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
        }


class ChunkWriter:
    """Chunks of one stream as JSON texts. What does not change is encoded once."""

    def __init__(self, envelope: Envelope, usage: Usage, options: StreamOptions) -> None:
        self._head = to_json(envelope.fields())[:-1] + ',"choices":['
        self._usage = usage
        self._continuous = bool(options.continuous_usage_stats)
        self.wants_usage = bool(options.include_usage)

    def chunk(self, choice: dict[str, Any], **more: Any) -> str:
        """One choice's part; `more` are fields beside `choices`."""
        text = self._head + to_json(choice) + "]"
        if self._continuous:
            more["usage"] = self._usage.json()
        elif self.wants_usage:
            more["usage"] = None  # OpenAI's: all but the last chunk have it as null
        return text + "," + to_json(more)[1:] if more else text + "}"

    def last(self) -> str:
        """The chunk with the usage and no choice."""
        return self._head + '],"usage":' + to_json(self._usage.json()) + "}"


def answer_id(http: HttpRequest, prefix: str, asked: str | None) -> str:
    """ "cmpl-…" or "chatcmpl-…", with the HTTP request's own id behind it.

    Args:
      http: the request; its id becomes `asked`, unless a header gave it one, as in vLLM.
      prefix: "cmpl" or "chatcmpl".
      asked: the body's `request_id`.

    Raises:
      ApiError: 400, `asked` can't stand in a header or a log.
    """
    if asked is not None:
        check_request_id(asked, "request_id")
        if "x-request-id" not in http.headers:
            http.state.request_id = asked
    return f"{prefix}-{http.state.request_id}"


def now() -> int:
    """Seconds since 1970, as `created` wants them."""
    return int(time.time())
