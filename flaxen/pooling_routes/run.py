"""From the ids of a body's inputs to their pooled vectors, through the engine.

Deliberately does not know what is made of the vectors.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest

from flaxen.pooling.params import PoolingParams, pooling_of
from flaxen.pooling_routes.bodies import split
from flaxen.protocol import FieldError, PoolingInfo, Request
from flaxen.protocol.pooling import PoolingTask
from flaxen.server.body import read_json
from flaxen.server.context import Context
from flaxen.server.errors import invalid, wrong_field
from flaxen.server.generation.engine_streams import start
from flaxen.server.generation.prompts import run_by_length
from flaxen.server.guard import check_request_id
from flaxen.server.request_log import GenerationLog, RequestLog, Timing
from flaxen.server.sse import unless_disconnected
from flaxen.server.usage import Usage

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a body asks for, resolved for this server."""

    params: PoolingParams
    pooling: PoolingInfo
    model: str  # the name to answer with
    adapter: str | None
    request_id: str | None = None

    def envelope(self, answer_id: str, usage: Usage, **fields: Any) -> dict[str, Any]:
        """The answer's JSON."""
        return {
            "id": answer_id,
            "object": "list",
            "created": int(time.time()),
            "model": self.model,
            **fields,
            "usage": usage.json(),
        }


async def read(
    context: Context, http: HttpRequest, task: PoolingTask | None
) -> tuple[Asked, dict[str, Any]]:
    """Reads a body, and checks that the model does what its route asks for.

    Args:
      context: the server's parts.
      http: the request.
      task: what the route needs; None takes what the model does.

    Returns:
      What the common fields ask for, and the other fields.

    Raises:
      ApiError: 400, the body is invalid, or the model can't; 404, there is no such model.
    """
    context.engine.check_health()
    common, own = split(await read_json(http, context.config, context.bodies))
    asked = ask(context, common.model, common.params(), task)
    return replace(asked, request_id=common.request_id), own


def ask(
    context: Context,
    model_name: str | None,
    params: PoolingParams,
    task: PoolingTask | None,
    field_names: Mapping[str, str] = MappingProxyType({}),
) -> Asked:
    """The options of a body, checked against the model that it names.

    Args and errors are those of `read`; `field_names` are the body's names of params' fields, where
    they differ.
    """
    model, adapter = context.find_model(model_name)
    info = context.engine.info
    try:
        pooling = params.check(info, task or pooling_of(info).task)
    except FieldError as error:
        raise invalid(str(error), field_names.get(error.field, error.field)) from None
    return Asked(params=params, pooling=pooling, model=model, adapter=adapter)


async def tokenized(work: Callable[[], _T], num_chars: int, context: Context) -> _T:
    """Makes ids of texts without delaying other requests.

    Raises:
      ApiError: 400, a text or its options are invalid; 429 and 503, as in run_by_length.
    """
    try:
        return await run_by_length(work, num_chars, context)
    except FieldError as error:
        raise invalid(str(error), error.field) from None
    except ValueError as error:  # half of a surrogate pair
        raise invalid(str(error), "input") from None


async def vectors(
    context: Context,
    http: HttpRequest,
    asked: Asked,
    inputs: Sequence[Sequence[int]],
    *,
    field: str,
    prefix: str,
) -> tuple[list[tuple[float, ...]], str, Usage] | None:
    """Pools each input; all of them go to the engine at once.

    Args:
      context: the server's parts.
      http: the request, whose line of the log is filled in.
      asked: the body.
      inputs: the ids of each input.
      field: the name of the inputs in the body, for errors.
      prefix: of the answer's id.

    Returns:
      The vectors, the answer's id and the tokens; None if the client has gone.

    Raises:
      ApiError: 400, an input is empty or too long, or there are too many; and as in EngineStreams.
    """
    if not all(inputs):
        raise invalid(f"{field} holds an empty text: give at least one token", field)
    if asked.request_id is not None:
        check_request_id(asked.request_id, "request_id")
        if "x-request-id" not in http.headers:
            http.state.request_id = asked.request_id
    answer_id = f"{prefix}-{http.state.request_id}"
    requests = _requests(context, asked, inputs, f"{answer_id}-{uuid.uuid4().hex[:12]}", field)
    usage, timing = Usage(num_prompt=sum(map(len, inputs))), Timing()
    log: RequestLog = http.state.log
    log.generation = GenerationLog(
        model=asked.model,
        adapter=asked.adapter,
        stream=False,
        num_prompts=len(requests),
        n=1,
        usage=usage,
        timing=timing,
    )
    streams = await start(context, requests, {"prompt_token_ids": field}, timing)

    async def collect() -> list[tuple[float, ...]]:
        found: dict[int, tuple[float, ...]] = {}
        async for i, event in streams.events():
            usage.count(event)
            if event.finish is not None:
                assert event.finish.pooled is not None, "the engine gave no vector"
                found[i] = event.finish.pooled
        return [found[i] for i in range(len(requests))]

    try:
        whole = await unless_disconnected(http.receive, collect())
    finally:
        await streams.close()
    return None if whole is None else (whole, answer_id, usage)


def _requests(
    context: Context, asked: Asked, inputs: Sequence[Sequence[int]], engine_id: str, field: str
) -> list[Request]:
    try:
        return [
            Request(
                request_id=f"{engine_id}-{i}",
                prompt_token_ids=tuple(ids),
                timeout_s=context.config.request_timeout_s,
                adapter=asked.adapter,
                pooling=asked.pooling.pooling,
            )
            for i, ids in enumerate(inputs)
        ]
    except FieldError as error:
        raise wrong_field(error, {"prompt_token_ids": field}) from None
