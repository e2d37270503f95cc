"""The routes of responses that are kept or run: none of them needs a model.

Deliberately does not know how a response is made.
"""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.responses_routes.bodies import INCLUDES
from flaxen.responses_routes.history import conversation
from flaxen.responses_routes.responses import Responses
from flaxen.responses_routes.runs import EVENTS
from flaxen.server.errors import invalid, unsupported
from flaxen.server.paging import check_query, list_json, read_paging, whole
from flaxen.server.request_log import RequestLog
from flaxen.server.schema import must_be
from flaxen.server.sse import EventStreamResponse

# What was asked for at the creation is there.
_INCLUDES = {"include": INCLUDES, "include[]": INCLUDES}


async def retrieve(responses: Responses, http: HttpRequest) -> Response:
    """Answers GET /v1/responses/{response_id}: the response, or the events of its run.

    Raises:
      ApiError: 400, the query is wrong, or there are no events to stream; 404, it is not kept.
    """
    check_query(http, ("stream", "starting_after", "include_obfuscation"), _INCLUDES)
    response_id = http.path_params["response_id"]
    is_padded, after = _flag(http, "include_obfuscation"), whole(http, "starting_after")
    if not _flag(http, "stream"):  # then both say nothing
        return JSONResponse(dict((await responses.find(response_id)).response))
    if is_padded:
        raise invalid("this server does not pad its events", "include_obfuscation")
    run = responses.runs.get(response_id)
    if run is None:
        await responses.find(response_id)
        raise unsupported(
            "stream=true is refused: only the events of responses that run in the background, or "
            "did until a short time ago, are kept. Leave it out",
            "stream",
        )
    log: RequestLog = http.state.log
    events = run.follow(-1 if after is None else after)
    return EventStreamResponse(events, _nothing, log.noted, EVENTS)


async def cancel(responses: Responses, http: HttpRequest) -> Response:
    """Answers POST /v1/responses/{response_id}/cancel: ends what runs in the background.

    A response that has ended already is answered as it is, as in OpenAI's API.

    Raises:
      ApiError: 400, it was not created with background=true; 404, it is not kept.
    """
    response_id = http.path_params["response_id"]
    if run := responses.running(response_id):
        run.cancel()
        await run.wait()
    response = (await responses.find(response_id)).response
    if not response["background"]:
        raise invalid(
            "Cannot cancel a synchronous response. Only those that were created with "
            "background=true can be cancelled: of others the client leaves",
            "response_id",
        )
    return JSONResponse(dict(response))


async def delete(responses: Responses, http: HttpRequest) -> Response:
    """Answers DELETE /v1/responses/{response_id}. One that runs is cancelled first.

    Raises:
      ApiError: 404, it is not kept.
    """
    response_id = http.path_params["response_id"]
    if run := responses.running(response_id):
        run.cancel()
        await run.wait()
    found = await responses.find(response_id)
    responses.runs.drop(found.id)
    await responses.store.delete(found.id)
    return JSONResponse({"id": found.id, "object": "response", "deleted": True})


async def list_input_items(responses: Responses, http: HttpRequest) -> Response:
    """Answers GET /v1/responses/{response_id}/input_items: a page of all that was its input, which
    begins with the responses that it continues.

    Raises:
      ApiError: 400, the query is wrong; 404, a response or the item `after` is not kept.
    """
    paging = read_paging(http, order="desc", values=_INCLUDES)
    found = await responses.find(http.path_params["response_id"])
    past = await conversation(responses.store, found.response["previous_response_id"])
    items = [*past, *found.items]
    return list_json(paging.page_of(reversed(items) if paging.newest_first else items))


async def _nothing() -> None:
    """A reader of a run's events frees nothing: the run goes on."""


def _flag(http: HttpRequest, name: str) -> bool:
    value = http.query_params.get(name, "false")
    if value not in ("true", "false"):
        raise must_be(name, "true or false", value)
    return value == "true"
