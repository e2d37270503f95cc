"""Why an engine does not serve a request. They are told apart by type, never by their words.

Standard library only.
"""

from __future__ import annotations


class FieldError(ValueError):
    """One field of a request has a wrong value. Final.

    Args:
      field: the field's name in SamplingParams or Request, for whoever knows it by another name.
      message: names the field too, with its value and what may stand there.
    """

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return self.message


class RequestIdInUseError(ValueError):
    """A request has the id of one that has not ended. Final."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id

    def __str__(self) -> str:
        return f"request id {self.request_id!r} is in use: give another"


class UnknownAdapterError(ValueError):
    """A request names an adapter that the engine does not know, or does not know any more."""


class EngineClosedError(RuntimeError):
    """The engine takes no more requests: it is draining, stopped, or broken."""


class EngineBrokenError(EngineClosedError):
    """The engine failed in a way from which it does not come back."""


class EngineBusyError(RuntimeError):
    """The queue of waiting sequences is full: try again later."""


class ReaderTooSlowError(RuntimeError):
    """Too much of an answer waits to be read: the request was ended, and what waited is lost."""
