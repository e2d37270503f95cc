"""From a request body to its answer, whole or streamed, for the routes that generate.

A `BodyForm` describes what differs between the routes' requests: the fields, and how they become
engine requests. A `Route` has how events become choices too. Other APIs have answers of their own:
they use `read_request` and `begin`. Deliberately does not know prompts, sampling, or the contents
of a choice.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.protocol import Grammar, Request, SamplingParams, StructuredOutputs
from flaxen.server.body import read_json
from flaxen.server.context import Context
from flaxen.server.errors import invalid, unsupported
from flaxen.server.generation import fields_without_effect
from flaxen.server.generation.answer_json import ChunkWriter, Envelope
from flaxen.server.generation.beam_fields import beam_search
from flaxen.server.generation.bodies import CommonBody, StreamOptions, parse_two
from flaxen.server.generation.engine_streams import EngineStreams, start
from flaxen.server.generation.prompts import Prompt
from flaxen.server.generation.retention_fields import read_retention
from flaxen.server.generation.sampling_fields import check_logprobs, stream_options
from flaxen.server.generation.structured_fields import grammar_of, read_structure
from flaxen.server.generation.timings import timings_json
from flaxen.server.guard import check_request_id
from flaxen.server.load_header import load_header
from flaxen.server.request_log import GenerationLog, RequestLog, Timing
from flaxen.server.sse import DATA_EVENTS, EventStreamResponse, unless_disconnected
from flaxen.server.usage import Usage

_Body = TypeVar("_Body", bound=BaseModel)
_View = TypeVar("_View")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The common fields of a body, resolved for this server."""

    common: CommonBody
    options: StreamOptions
    answer_id: str
    engine_id: str  # the prefix of the engine requests' ids
    model: str  # the name to answer with
    adapter: str | None  # the adapter that the name means
    timeout_s: float | None
    tokens_as_ids: bool  # whether logprobs name tokens as "token_id:7"
    structure: StructuredOutputs | None = None  # what the answer must look like
    make_grammar: Callable[[], Grammar] | None = None  # the same, for each sequence

    @property
    def cache_salt(self) -> str:
        """What the pages of the prompt are kept under."""
        if self.common.cache_prompt is False:
            return self.engine_id  # no other request has it
        return self.common.cache_salt or ""

    @property
    def retention(self) -> float | Literal["done", "drop"] | None:
        """What becomes of the prompt's pages after the answer."""
        if self.common.cache_prompt is False:
            return "drop"
        return read_retention(self.common.retention, self.common.prompt_cache_retention)

    def request(self, index: int, prompt: Prompt, sampling: SamplingParams) -> Request:
        """Makes the engine's request for one of the body's prompts."""
        return Request(
            request_id=f"{self.engine_id}-{index}",
            prompt_token_ids=prompt.token_ids,
            sampling=replace(sampling, structured_outputs=self.structure),
            grammar=self.make_grammar,
            cache_salt=self.cache_salt,
            session_id=self.common.session_id,
            retention=self.retention,
            priority=self.common.priority or 0,
            timeout_s=self.timeout_s,
            adapter=self.adapter,
        )


@dataclass(frozen=True, kw_only=True)
class BodyForm(Generic[_Body, _View]):
    """How a route's bodies are read. A view holds what its answer needs."""

    id_prefix: str  # the prefix of answer ids
    body: type[_Body]  # the fields besides the common ones
    without_effect: Mapping[str, fields_without_effect.Rule]
    field_names: Mapping[str, str]  # the engine's field names -> the route's, where they differ
    parse: Callable[[Context, _Body, Asked], Awaitable[tuple[list[Request], _View]]]
    # From a body as it was sent to one whose fields are all at the top.
    flatten: Callable[[dict[str, Any]], dict[str, Any]] = dict


@dataclass(frozen=True, kw_only=True)
class Route(Generic[_Body, _View]):
    """The values and functions in which a route with OpenAI's choices differs."""

    reads: BodyForm[_Body, _View]
    object: str  # the `object` of a whole answer
    chunk_object: str
    collect: Callable[[_View, EngineStreams, Usage], Coroutine[Any, Any, dict[str, Any]]]
    # None: the route does not stream.
    stream: Callable[[_View, EngineStreams, ChunkWriter], AsyncGenerator[str, None]] | None
    # What is done with a whole answer before it is sent.
    keep: Callable[[_View, dict[str, Any]], Awaitable[None]] | None = None


@dataclass(frozen=True, kw_only=True)
class ReadRequest(Generic[_View]):
    """A body that was read and checked: what the engine is asked for, one for each prompt."""

    asked: Asked
    requests: list[Request]
    view: _View


async def read_request(
    context: Context, http: HttpRequest, form: BodyForm[_Body, _View]
) -> ReadRequest[_View]:
    """Reads a request whose body has this form.

    Raises:
      ApiError: 400, the body is invalid or exceeds a limit; and other errors of its parts.
    """
    context.engine.check_health()
    if context.engine.info.pooling is not None:
        raise invalid(
            f"{context.model_names[0]} generates no text: it gives embeddings or scores. Use "
            "/v1/embeddings, /v1/score, /v1/rerank, /classify or /pooling",
            "model",
        )
    given = form.flatten(await read_json(http, context.config, context.bodies))
    body, common = parse_two(
        form.body, fields_without_effect.drop_from_body(given, form.without_effect)
    )
    asked = await _read_common(context, http, common, form.id_prefix)
    requests, view = await form.parse(context, body, asked)
    return ReadRequest(asked=asked, requests=requests, view=view)


async def begin(
    context: Context,
    http: HttpRequest,
    read: ReadRequest[_View],
    field_names: Mapping[str, str],
) -> tuple[EngineStreams, Usage]:
    """Submits what was read, and notes it for the log. The caller must await the streams' `close`.

    Raises:
      ApiError and others: as in `engine_streams.start`.
    """
    usage = Usage(
        num_prompt=sum(len(request.prompt_token_ids) for request in read.requests),
        has_prediction=any(request.prediction_token_ids for request in read.requests),
    )
    timing = Timing()
    log: RequestLog = http.state.log
    log.generation = _generation_log(read.asked, read.requests, usage, timing)
    search = beam_search(read.asked.common, read.requests, context)
    return await start(context, read.requests, field_names, timing, engine=search), usage


async def answer(context: Context, http: HttpRequest, route: Route[_Body, _View]) -> Response:
    """Answers a request of the route.

    Raises:
      ApiError: as in `read_request`; and what the engine refuses.
    """
    read = await read_request(context, http, route.reads)
    asked, view = read.asked, read.view
    if asked.common.return_token_offsets:
        raise unsupported(
            "return_token_offsets is of /render: here logprobs of /v1/completions have text_offset",
            "return_token_offsets",
        )
    if asked.common.stream and route.stream is None:
        raise invalid("this route does not stream: leave stream out", "stream")
    streams, usage = await begin(context, http, read, route.reads.field_names)
    timing = streams.timing if asked.common.timings_per_token else None

    write_stream = route.stream if asked.common.stream else None
    kind = route.object if write_stream is None else route.chunk_object
    envelope = Envelope(
        id=asked.answer_id, object=kind, model=asked.model, created=int(time.time())
    )
    if write_stream is not None:
        writer = ChunkWriter(envelope, usage, asked.options, timing)
        events = write_stream(view, streams, writer)
        return EventStreamResponse(events, streams.close, http.state.log.noted, DATA_EVENTS)
    try:
        whole = await unless_disconnected(http.receive, route.collect(view, streams, usage))
    finally:
        await streams.close()
    if whole is None:
        return Response(status_code=499)
    # Clients of vLLM read these without asking whether they are there.
    empty = {"service_tier": None, "kv_transfer_params": None}
    counted: dict[str, Any] = {"usage": usage.json(), "weights_version": usage.weights_version}
    if timing is not None:
        counted["timings"] = timings_json(usage, timing)
    headers = load_header(http.headers, context.engine.stats())
    content = envelope.fields() | whole | counted | empty
    if route.keep is not None:
        await route.keep(view, content)
    return JSONResponse(content, headers=headers)


def _generation_log(
    asked: Asked, requests: list[Request], usage: Usage, timing: Timing
) -> GenerationLog:
    return GenerationLog(
        model=asked.model,
        adapter=asked.adapter,
        stream=bool(asked.common.stream),
        num_prompts=len(requests),
        n=requests[0].sampling.n,
        usage=usage,
        timing=timing,
    )


async def _read_common(
    context: Context, http: HttpRequest, common: CommonBody, id_prefix: str
) -> Asked:
    model, adapter = context.find_model(common.model)
    config, as_ids = context.config, common.return_tokens_as_token_ids
    answer_id = _answer_id(http, id_prefix, common.request_id)
    structure, where = read_structure(common)
    asked = Asked(
        common=common,
        options=stream_options(common, force_usage=config.force_usage),
        answer_id=answer_id,
        # The client chooses the answer's id (x-request-id), and may choose one twice.
        engine_id=f"{answer_id}-{uuid.uuid4().hex[:12]}",
        model=model,
        adapter=adapter,
        timeout_s=config.request_timeout_s,
        tokens_as_ids=config.tokens_as_ids if as_ids is None else as_ids,
        structure=structure,
        make_grammar=await grammar_of(structure, where, context),
    )
    if common.cache_salt == "":  # an empty salt would separate nothing
        raise invalid("cache_salt must not be empty: leave it out to share prefixes", "cache_salt")
    check_logprobs(common.prompt_logprobs, "prompt_logprobs", context)
    if common.stream and common.prompt_logprobs is not None:
        raise invalid("prompt_logprobs can't be streamed: set stream=false", "prompt_logprobs")
    return asked


def _answer_id(http: HttpRequest, prefix: str, wanted: str | None) -> str:
    """ "cmpl-…" or "chatcmpl-…", with the HTTP request's own id at the end.

    Args:
      http: the request; its id becomes `wanted`, unless a header gave it one, as in vLLM.
      prefix: "cmpl" or "chatcmpl".
      wanted: the body's `request_id`.

    Raises:
      ApiError: 400, `wanted` is not valid in a header or a log.
    """
    if wanted is not None:
        check_request_id(wanted, "request_id")
        if "x-request-id" not in http.headers:
            http.state.request_id = wanted
    return f"{prefix}-{http.state.request_id}"
