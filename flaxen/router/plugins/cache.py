"""AnswerCache: the answers that were kept, and who is about to bring one.

Deliberately does not know: clocks, embeddings' models, how somebody waits.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flaxen.router.plugins.cache_key import CacheKey
from flaxen.router.plugins.reply import Json, to_json

Vector = Sequence[float] | NDArray[np.float32]
_LEASE_S = 30.0  # after which another may bring an answer that has not come
_OVERHEAD = 1_024  # bytes of an entry beside its answer


@dataclass(frozen=True)
class Hit:
    """A kept answer, how similar its request was (1 for the same), and its age in seconds."""

    answer: dict[str, Any]
    similarity: float
    age_s: float


@dataclass
class Flight:
    """The request whose answer is brought, until it ends: others for the same answer wait.

    Attributes:
      until: when they no longer do, in seconds.
      on_end: called once it has ended.
    """

    key: CacheKey
    until: float
    on_end: list[Callable[[], None]] = field(default_factory=list)


@dataclass(frozen=True)
class Wait:
    """Another brings the answer: ask again once its flight has ended, or at `until`."""

    flight: Flight
    until: float


@dataclass(frozen=True)
class _Entry:
    similar: str
    vector: Vector | None
    body: bytes
    has_usage: bool
    size: int
    kept_at: float
    until: float


class AnswerCache:
    """Keeps finished answers, bounded by bytes, number and time.

    Not for several threads at once. Times are in seconds, from any one clock.

    Args:
      eviction: which goes first where there is no room: the oldest (fifo), or the one that was not
        used for longest (lru).
      wait_s: the longest that a request waits for another's answer.
    """

    def __init__(
        self,
        *,
        max_bytes: int = 64 << 20,
        max_entries: int = 1_000,
        eviction: Literal["fifo", "lru"] = "fifo",
        wait_s: float = _LEASE_S,
    ) -> None:
        self._max_bytes, self._max_entries = max_bytes, max_entries
        self._eviction, self._wait_s = eviction, wait_s
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._flights: dict[str, Flight] = {}
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(
        self,
        key: CacheKey,
        now: float,
        *,
        wants_usage: bool = True,
        max_age_s: float | None = None,
        vector: Vector | None = None,
        threshold: float = 1.0,
    ) -> Hit | None:
        """The answer to the same request, else to the most similar one; None if there is none.

        Args:
          wants_usage: whether the client is told the tokens (`wants_usage` of streams). An answer
            that came as a stream may not say them.
          vector: the embedding of key.text, of length 1; without one, none is similar.
          threshold: the least cosine of similar requests.
        """

        def usable(name: str) -> _Entry | None:
            entry = self._entries.get(name)
            if entry is not None and entry.until <= now:
                self._drop(name)
                entry = None
            if entry is None or (wants_usage and not entry.has_usage):
                return None
            return entry if max_age_s is None or now - entry.kept_at <= max_age_s else None

        name, likeness = key.exact, 1.0
        if usable(name) is None:
            alike = [
                (float(np.dot(vector, entry.vector)), other)
                for other, entry in list(self._entries.items())
                if vector is not None and key.similar == entry.similar != ""
                if entry.vector is not None and len(entry.vector) == len(vector) and usable(other)
            ]
            likeness, name = max(alike, default=(-2.0, ""))
            if not alike or likeness < threshold:
                return None
        if self._eviction == "lru":
            self._entries.move_to_end(name)
        found = self._entries[name]
        return Hit(json.loads(found.body), likeness, now - found.kept_at)

    def fly(self, key: CacheKey, now: float, asked_at: float) -> Flight | Wait:
        """What a request does whose answer was not found: it brings the answer, and ends its flight
        by `keep` or `end`; or it waits for another's.

        Args:
          asked_at: when it came; after wait_s, it brings an answer of its own.
        """
        flight = self._flights.get(key.exact)
        if flight is None or flight.until <= now:
            flight = self._flights[key.exact] = Flight(key, now + _LEASE_S)
            return flight
        until = min(flight.until, asked_at + self._wait_s)
        return Wait(flight, until) if now < until else Flight(key, now)

    def keep(
        self,
        flight: Flight,
        answer: Json,
        now: float,
        ttl_s: float,
        vector: Vector | None = None,
    ) -> None:
        """Keeps a finished answer (`whole_answer` says whether it is), and ends its flight."""
        key, body = flight.key, to_json(answer).encode()
        size = len(body) + (0 if vector is None else 8 * len(vector)) + _OVERHEAD
        self._drop(key.exact)
        if ttl_s > 0 and size <= self._max_bytes:
            has_usage = answer.get("usage") is not None
            until = now + ttl_s
            self._entries[key.exact] = _Entry(
                key.similar, vector, body, has_usage, size, now, until
            )
            self.num_bytes += size
            while self.num_bytes > self._max_bytes or len(self) > self._max_entries:
                self._drop(next(iter(self._entries)))
        self.end(flight)

    def end(self, flight: Flight) -> None:
        """Ends a flight, whatever became of it."""
        if self._flights.get(flight.key.exact) is flight:
            del self._flights[flight.key.exact]
        waiting, flight.on_end = flight.on_end, []
        for wake in waiting:
            wake()

    def _drop(self, name: str) -> None:
        """Removes an entry, if it is there."""
        entry = self._entries.pop(name, None)
        self.num_bytes -= 0 if entry is None else entry.size
