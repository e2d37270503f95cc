"""The routes that change what a server does for everybody, with --server-dev-mode, as in vLLM."""

from __future__ import annotations

import asyncio
import logging

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from flaxen.server.context import Context

logger = logging.getLogger("flaxen.server")


async def reset_prefix_cache(context: Context, http: HttpRequest) -> Response:
    """Answers POST /reset_prefix_cache; the body is not read."""
    await asyncio.to_thread(context.engine.reset_prefix_cache)
    logger.info("forgot all cached prefixes", extra={"request_id": http.state.request_id})
    return Response(status_code=200)
