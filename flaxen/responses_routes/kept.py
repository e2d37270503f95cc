"""The routes of responses that are kept or run: none of them needs a model.

Deliberately does not know how a response is made.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.responses_routes.bodies import INCLUDES
from flaxen.responses_routes.history import conversation
from flaxen.responses_routes.responses import Responses
from flaxen.responses_routes.runs import EVENTS
from flaxen.server.errors import ApiError, invalid
from flaxen.server.request_log import RequestLog
from flaxen.server.schema import shorten
from flaxen.server.sse import EventStreamResponse

_DEFAULT_PAGE, _LARGEST_PAGE = 20, 100  # OpenAI's
_MAX_DIGITS = 9


async def retrieve(responses: Responses, http: HttpRequest) -> Response:
    """Answers GET /v1/responses/{response_id}: the response, or the events of its run.

    Raises:
      ApiError: 400, the query is wrong, or there are no events to stream; 404, it is not kept.
    """
    _check_query(http, ("stream", "starting_after", "include_obfuscation"))
    response_id = http.path_params["response_id"]
    if _flag(http, "include_obfuscation"):
        raise invalid("this server does not pad its events", "include_obfuscation")
    after = _whole(http, "starting_after", low=0)
    if not _flag(http, "stream"):
        if after is not None:
            raise invalid("starting_after needs stream=true", "starting_after")
        return JSONResponse(dict((await responses.find(response_id)).response))
    run = responses.runs.get(response_id)
    if run is None:
        await responses.find(response_id)
        raise invalid(
            "stream=true is refused: only the events of responses that run in the background, or "
            "did until a short time ago, are kept. Leave it out",
            "stream",
            "unsupported_parameter",
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
    _check_query(http, ("after", "limit", "order"))
    order = http.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid(f"order must be asc or desc, got {shorten(order)}", "order")
    limit = _whole(http, "limit", low=1, high=_LARGEST_PAGE) or _DEFAULT_PAGE
    found = await responses.find(http.path_params["response_id"])
    past = await conversation(responses.store, found.response["previous_response_id"])
    items = [*past, *found.items]
    if order == "desc":
        items.reverse()
    after, start = http.query_params.get("after"), 0
    if after is not None:
        places = [i for i, item in enumerate(items) if item["id"] == after]
        if not places:
            raise ApiError(
                404,
                f"after={after[:80]!r} is not the id of an item of this list",
                param="after",
                code="not_found",
            )
        start = places[0] + 1
    page = items[start : start + limit]
    return JSONResponse(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else "",  # a string in OpenAI's schema
            "last_id": page[-1]["id"] if page else "",
            "has_more": start + limit < len(items),
        }
    )


async def _nothing() -> None:
    """A reader of a run's events frees nothing: the run goes on."""


def _check_query(http: HttpRequest, names: Collection[str]) -> None:
    for name, value in http.query_params.multi_items():
        if name in ("include", "include[]") and value in INCLUDES:
            continue  # what was asked for at the creation is there
        if name not in names:
            shown = f"{name}={value}"[:80]
            raise invalid(f"unknown parameter {shown!r}", name[:80], "unknown_parameter")


def _flag(http: HttpRequest, name: str) -> bool:
    value = http.query_params.get(name, "false")
    if value not in ("true", "false"):
        raise invalid(f"{name} must be true or false, got {shorten(value)}", name)
    return value == "true"


def _whole(http: HttpRequest, name: str, *, low: int, high: int = 10**_MAX_DIGITS) -> int | None:
    value = http.query_params.get(name)
    if value is None:
        return None
    is_number = value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS
    if not is_number or not low <= int(value) <= high:
        raise invalid(
            f"{name} must be a whole number from {low} to {high}, got {shorten(value)}", name
        )
    return int(value)
