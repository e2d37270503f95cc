"""The JSON that both generation routes share: the envelope, and the chunks of a stream.

Deliberately does not know the contents of a choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flaxen import __version__
from flaxen.protocol import TokenEvent, TokenLogprobs
from flaxen.server.generation.bodies import StreamOptions
from flaxen.server.generation.timings import timings_json
from flaxen.server.request_log import Timing
from flaxen.server.sse import to_json
from flaxen.server.usage import Usage

_FINGERPRINT = f"flaxen-{__version__}"  # of what computes, as OpenAI's API tells it


@dataclass(kw_only=True)
class WholeSequence:
    """Collects all events of one sequence, for an answer in one piece."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def add(self, event: TokenEvent) -> None:
        """Appends an event."""
        self.texts.append(event.text)
        self.token_ids.extend(event.token_ids)
        self.logprobs.extend(event.logprobs or ())
        if event.finish is not None:
            self.finish_reason = event.finish.reason.wire_name
            self.stop_reason = event.finish.stop_reason


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """The fields that every chunk and the whole answer begin with."""

    id: str
    object: str
    model: str
    created: int

    def fields(self) -> dict[str, Any]:
        """The fields as a dict."""
        return {
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": _FINGERPRINT,
        }


class ChunkWriter:
    """Writes the chunks of one stream as JSON. The constant part is encoded once.

    Args:
      envelope: what each chunk begins with.
      usage: counted by who reads the events.
      options: which usage is told, and where.
      timing: if not None, each chunk after the first tokens tells their times.
    """

    def __init__(
        self, envelope: Envelope, usage: Usage, options: StreamOptions, timing: Timing | None
    ) -> None:
        self._head = to_json(envelope.fields())[:-1] + ',"choices":['
        self.usage = usage
        self._continuous = bool(options.continuous_usage_stats)
        self.wants_usage = bool(options.include_usage)
        self._timing = timing

    def chunk(self, choice: dict[str, Any], **more: Any) -> str:
        """Makes a chunk of one choice; `more` are fields besides `choices`."""
        text = self._head + to_json(choice) + "]"
        if choice.get("finish_reason") is not None:
            more["weights_version"] = self.usage.weights_version
        if self._continuous:
            more["usage"] = self.usage.json()
        elif self.wants_usage:
            more["usage"] = None  # as in OpenAI's API, null in all but the last chunk
        more |= self._timings()
        return text + "," + to_json(more)[1:] if more else text + "}"

    def last(self) -> str:
        """Makes the last chunk, with the usage and no choice."""
        return self._head + "]," + to_json({"usage": self.usage.json(), **self._timings()})[1:]

    def _timings(self) -> dict[str, Any]:
        if self._timing is None or self._timing.first_s is None:
            return {}
        return {"timings": timings_json(self.usage, self._timing)}
