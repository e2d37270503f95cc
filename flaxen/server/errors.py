"""The errors that clients are told of, with their status codes.

Deliberately does not know any route, or the form in which clients are told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from flaxen.protocol import (
    EngineBusyError,
    EngineClosedError,
    FieldError,
    ReaderTooSlowError,
    UnknownAdapterError,
)


@dataclass(eq=False, repr=False)
class ApiError(Exception):
    """An error to report to the client: its status and the fields of OpenAI's error body.

    Args:
      cause: for the log only: what went wrong in the server, if the client did nothing wrong.
      quotes_values: whether the message may hold values of the body, and so a part of a prompt: the
          log then has the code and the param, without the message.
    """

    status: int
    message: str
    _: KW_ONLY
    param: str | None = None
    code: str | None = None
    type: str = "invalid_request_error"
    headers: dict[str, str] | None = None
    cause: Exception | str | None = None
    quotes_values: bool = False

    def __str__(self) -> str:
        return self.message


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """A 400: a value in the request is not allowed."""
    return ApiError(400, message, param=param, code=code, quotes_values=True)


def unsupported(message: str, param: str) -> ApiError:
    """A 400: this server does not have what a field asks for."""
    return invalid(message, param, "unsupported_parameter")


def not_found(what: str, given: str, param: str = "id") -> ApiError:
    """A 404: nothing of a kind has the id that was given."""
    return ApiError(404, f"there is no {what} {given[:80]!r}", param=param, code="not_found")


def wrong_field(error: FieldError, names: Mapping[str, str]) -> ApiError:
    """A 400 for a field that the engine refused.

    Args:
      error: names the field as the engine calls it.
      names: maps the engine's field names to the request's, where these differ.
    """
    return invalid(str(error), names.get(error.field, error.field))


def internal(cause: Exception | str) -> ApiError:
    """A 500 without internal details; the cause is for the log."""
    return ApiError(
        500,
        "the server failed on this request: this is not the request's fault; its log has the cause "
        "under the request's x-request-id",
        code="internal_error",
        type="server_error",
        cause=cause,
    )


def as_api_error(error: Exception) -> ApiError:
    """Converts any exception to an ApiError; an unexpected one becomes the cause of a 500."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineBusyError):
        return ApiError(
            429,
            "the queue is full: too many requests wait for the model; try again later",
            code="queue_full",
            type="rate_limit_error",
            headers={"retry-after": "1"},
        )
    if isinstance(error, EngineClosedError):
        return ApiError(
            503,
            "the server takes no more requests: it is shutting down or its engine has stopped; "
            "try again later",
            code="unavailable",
            type="server_error",
            headers={"retry-after": "1"},
        )
    if isinstance(error, UnknownAdapterError):
        return ApiError(
            404,
            "the model is not served any more: it was removed since the request came; /v1/models "
            "lists those that are",
            param="model",
            code="model_not_found",
        )
    if isinstance(error, ReaderTooSlowError):
        return ApiError(408, str(error), code="reader_too_slow")
    return internal(error)
