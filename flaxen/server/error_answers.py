"""Errors as HTTP responses: their JSON, in the form of the API that a path belongs to.

Knows: OpenAI's form, that of Anthropic's messages, and vLLM's names of errors.
"""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from flaxen.server.errors import ApiError, as_api_error

_MESSAGES = "/v1/messages"
# Anthropic's names of errors by status; others are "invalid_request_error" or "api_error".
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

# Routes that OpenAI does not have and vLLM does, and its names of errors by status.
_VLLM_PATHS = frozenset(
    ("/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank")
)
_VLLM_TYPES = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}


# The routes that only --server-dev-mode adds.
DEV_PATHS = frozenset(
    f"/{name}"
    for name in (
        *("reset_prefix_cache", "pause", "resume", "is_paused"),
        *("sleep", "wake_up", "is_sleeping", "update_weights_from_disk"),
    )
)


def error_body(error: ApiError) -> dict[str, Any]:
    """The JSON from which the `openai` clients read errors."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def anthropic_error_body(error: ApiError) -> dict[str, Any]:
    """The JSON from which the `anthropic` clients read errors."""
    other = "invalid_request_error" if error.status < 500 else "api_error"
    message = error.message
    if error.code == "context_length_exceeded":
        # Agents look for these words, and then shorten the conversation.
        message = f"prompt is too long: {message}"
    kind = _ANTHROPIC_TYPES.get(error.status, other)
    return {"type": "error", "error": {"type": kind, "message": message}}


def error_response(error: ApiError, path: str) -> Response:
    """The HTTP response for an error of a request to a path."""
    is_anthropic = path == _MESSAGES or path.startswith(f"{_MESSAGES}/")
    body = anthropic_error_body(error) if is_anthropic else error_body(error)
    if path in _VLLM_PATHS:
        body["error"]["type"] = _VLLM_TYPES.get(error.status, error.type)
    return JSONResponse(body, status_code=error.status, headers=error.headers)


async def handle_error(request: Request, error: Exception) -> Response:
    """Starlette's exception handler: every error of a route leaves through here, and is noted for
    the request's line of the log.
    """
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)  # nobody reads it; 499 appears in the log
    api_error = _router_error(request, error) or as_api_error(error)
    log = request.state.log
    log.error = api_error
    return error_response(api_error, log.path)


def _router_error(request: Request, error: Exception) -> ApiError | None:
    """The error for a path or method that has no route."""
    if not isinstance(error, HTTPException):
        return None
    path = request.url.path
    where = f"{request.method} {path}"
    if error.status_code == 404:
        hint = "start the server with --server-dev-mode" if path in DEV_PATHS else None
        message = f"there is no route {where}: {hint or 'GET /docs lists them'}"
        return ApiError(404, message, code="unknown_url")
    if error.status_code == 405:
        named = Headers(error.headers).get("allow", "")
        allowed = ", ".join(sorted(named.split(", ")))  # the router has a set
        message = f"the route of {where} takes {allowed or 'another method'} only"
        headers = {"allow": allowed}
        return ApiError(405, message, code="method_not_allowed", headers=headers)
    return None
