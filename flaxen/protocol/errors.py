"""The errors of an engine. They are distinguished by type, never by their message.

Standard library only.
"""

from __future__ import annotations


class FieldError(ValueError):
    """One field of a request has a wrong value. Final.

    Args:
      field: the field's name in SamplingParams or Request, for callers that use another name.
      message: names the field too, with its value and what is allowed.
    """

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return self.message


class RequestIdInUseError(ValueError):
    """A request has the same id as an open one. Final."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id

    def __str__(self) -> str:
        return f"request id {self.request_id!r} is in use: give another"


class UnknownAdapterError(ValueError):
    """A request names an adapter that the engine does not know, or no longer knows."""


class EngineClosedError(RuntimeError):
    """The engine accepts no more requests: it is draining, stopped, or broken."""


class EngineBrokenError(EngineClosedError):
    """The engine failed and can't recover."""


class EngineBusyError(RuntimeError):
    """The queue of waiting sequences is full: try again later."""


class ReaderTooSlowError(RuntimeError):
    """Too much of an answer was unread: the request was ended, and its unread events are lost."""
