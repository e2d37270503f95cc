"""Sends a request to the application of the model that it names, which is loaded first if need be.

Deliberately does not know the fields of a body beside `model`, nor how models are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flaxen.model_pool.names import find_slot
from flaxen.model_pool.pool import ModelPool
from flaxen.model_pool.slot import Slot
from flaxen.server.body import DECODED_BODY, body_lane, read_json
from flaxen.server.config import ServerConfig
from flaxen.server.lanes import Lane
from flaxen.server.schema import must_be
from flaxen.server.sse import unless_disconnected


@dataclass(frozen=True, kw_only=True)
class Forwarding:
    """What the routes of all models share."""

    pool: ModelPool
    config: ServerConfig
    bodies: Lane = field(default_factory=body_lane)


async def forward(forwarding: Forwarding, http: Request) -> Response:
    """Answers a request by the model that its body names.

    Raises:
      ApiError: 404, no such model; or the body can't be read, as `read_json` says.
    """
    pool = forwarding.pool
    pool.check_health()
    body = await read_json(http, forwarding.config, forwarding.bodies)
    name = body.get("model")
    if name is not None and not isinstance(name, str):
        raise must_be("model", "a string", name, "invalid_type")
    return ForwardedResponse(pool, find_slot(pool.slots, name), {DECODED_BODY: body})


async def forward_to_first(forwarding: Forwarding, http: Request) -> Response:
    """Answers a request by the first model, whatever its body says."""
    return ForwardedResponse(forwarding.pool, forwarding.pool.slots[0], {})


class ForwardedResponse(Response):
    """The answer of a model's application. The model stays in memory until it is sent.

    Args:
      pool: the models.
      slot: the model that answers.
      more: what its application finds in the request's scope.
    """

    def __init__(self, pool: ModelPool, slot: Slot, more: Scope) -> None:
        self.status_code = 200  # the model's application sends its own
        self.background = None
        self.init_headers()
        self._pool, self._slot, self._more = pool, slot, more

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._slot.is_usable:
            loaded = await self._pool.acquire(self._slot)
        else:
            waited = await unless_disconnected(receive, self._pool.acquire(self._slot))
            if waited is None:
                scope["state"]["log"].status = 499  # nobody reads an answer
                return
            loaded = waited
        try:
            await loaded.app({**scope, **self._more}, receive, send)
        finally:
            self._pool.release(self._slot)
