"""Sends a model's answer on to the client, chunk by chunk as it comes."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import Send

from flaxen.routing.upstream import OF_CONNECTION, Answer, Headers, UpstreamError
from flaxen.server.error_answers import anthropic_error_body
from flaxen.server.errors import ApiError
from flaxen.server.sse import DATA_EVENTS, to_json

_REPLACED = OF_CONNECTION | {"x-request-id", "date", "server"}  # this server writes its own


async def send_answer(http: Request, send: Send, answer: Answer, more: Headers) -> None:
    """Sends an answer with more headers.

    An answer that breaks off ends with an event of its API that says so; where it is no stream of
    events the connection is closed, so that nobody takes a part for the whole.

    Raises:
      ApiError: the answer broke off, and it was no stream of events.
    """
    replaced = _REPLACED | {name for name, _ in more}
    headers = [pair for pair in answer.headers if pair[0] not in replaced] + list(more)
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    try:
        async for chunk in answer.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except UpstreamError as broken:
        told = f"the answer broke off: {broken}"
        error = ApiError(502, told, code="upstream_failed", type="server_error", cause=told)
        if not answer.is_stream:
            raise error from None
        http.state.log.noted(error)
        event = DATA_EVENTS.error(error)
        if http.state.log.path.startswith("/v1/messages"):
            event = f"event: error\ndata: {to_json(anthropic_error_body(error))}\n\n".encode()
        # A blank line ends an event that was cut.
        await send({"type": "http.response.body", "body": b"\n\n" + event, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
