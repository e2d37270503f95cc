"""POST /v1/responses/compact: a conversation as one item, which is a summary that the model writes.

Deliberately does not know: how bodies and items are read, how a response is written.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.responses_routes.asking import FIELD_NAMES, read_response_request
from flaxen.responses_routes.bodies import WITHOUT_EFFECT
from flaxen.responses_routes.items import output_id
from flaxen.responses_routes.responses import Responses
from flaxen.responses_routes.summaries import written_summary
from flaxen.responses_routes.writer import ResponseWriter
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation.answer import begin
from flaxen.server.generation.engine_streams import EngineStreams
from flaxen.server.generation.fields_without_effect import CACHE_RETENTION, drop
from flaxen.server.schema import StrictBody, Whole, parse
from flaxen.server.sse import unless_disconnected

COMPACT_WITHOUT_EFFECT = {
    "prompt_cache_retention": CACHE_RETENTION,
    **{name: WITHOUT_EFFECT[name] for name in ("service_tier", "prompt_cache_options")},
}
_TASK = (
    "Summarize this conversation so that it can be continued from the summary alone: what the user "
    "wants and has decided, what was done and found, the names and numbers that matter, and what "
    "is left to do. Answer with the summary and nothing else."
)


class CompactBody(StrictBody):
    """The fields of /v1/responses/compact, which mean what they do in a response."""

    model: str
    input: Any = None
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Whole | None = None  # of the summary
    prompt_cache_key: str | None = None


async def compact(responses: Responses, context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/responses/compact. Nothing of it is kept.

    Raises:
      ApiError: as in `read_response_request`; and what the engine refuses.
    """
    read = await read_response_request(context, http, responses.store, flatten=_asked)
    streams, usage = await begin(context, http, read, FIELD_NAMES)
    writer = ResponseWriter(read.asked, read.view, usage)
    try:
        is_there = await unless_disconnected(http.receive, _to_end(writer, streams))
    finally:
        await streams.close()
    if not is_there:
        return Response(status_code=499)
    response = writer.response()
    messages = [item for item in response["output"] if item["type"] == "message"]
    summary = "".join(part["text"] for item in messages for part in item["content"])
    item = {
        "id": output_id("cmp", writer.id, 0),
        "type": "compaction",
        "encrypted_content": written_summary(summary),
    }
    kept = {name: response[name] for name in ("id", "created_at", "usage")}
    return JSONResponse({**kept, "object": "response.compaction", "output": [item]})


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    """The body of the response that is the summary."""
    body = parse(CompactBody, drop(given, COMPACT_WITHOUT_EFFECT))
    if body.input is None and body.previous_response_id is None:
        raise invalid("there is nothing to compact: send input or previous_response_id", "input")
    items = [] if body.input is None else body.input
    items = [{"role": "user", "content": items}] if isinstance(items, str) else items
    task = {"role": "user", "content": _TASK}
    asked = {"input": [*items, task] if isinstance(items, list) else items}
    return {**body.model_dump(exclude_none=True), **asked, "store": False}


async def _to_end(writer: ResponseWriter, streams: EngineStreams) -> bool:
    async for _, event in streams.events():
        writer.push(event)
    return True
