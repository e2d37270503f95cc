"""Requests that have arrived and that the engine does not have yet, in their order.

Those that arrive during a step wait for its end; those that arrive in a pause wait for that.

Deliberately does not know: threads (its user guards it with a lock), streams, the engine.
"""

from __future__ import annotations

from collections import deque
from typing import final

from flaxen.scheduling.checked import CheckedRequest

Arrival = tuple[CheckedRequest, float]  # and when it arrived, on the engine's clock


@final
class Arrivals:
    """A queue in two parts: `len` counts those that the engine may take now."""

    def __init__(self) -> None:
        self._next: deque[Arrival] = deque()
        self._held: list[Arrival] = []  # until no reason is left to hold them
        self._reasons: set[str] = set()

    def __len__(self) -> int:
        return len(self._next)

    @property
    def are_held(self) -> bool:
        """Whether requests that arrive now wait for the end of a pause."""
        return bool(self._reasons)

    def add(self, checked: CheckedRequest, arrival_s: float) -> None:
        """Adds a request that has just arrived."""
        (self._held if self._reasons else self._next).append((checked, arrival_s))

    def first(self) -> Arrival:
        """The one that the engine takes next."""
        return self._next[0]

    def remove_first(self) -> None:
        """Removes it, once the engine has it."""
        self._next.popleft()

    def requests(self) -> list[CheckedRequest]:
        """All of them."""
        return [checked for checked, _ in (*self._next, *self._held)]

    def hold(self, reason: str) -> None:
        """Lets those that arrive from now on wait until the reason is released."""
        self._reasons.add(reason)

    def release(self, reason: str) -> None:
        """Takes a reason back; after the last one nothing is held."""
        self._reasons.discard(reason)
        if not self._reasons:
            self.let_in()

    def let_in(self, request_id: str | None = None) -> None:
        """Lets one held request through, so that the engine can end it; None: all."""
        held, self._held = self._held, []
        for each in held:
            is_meant = request_id in (None, each[0].request.request_id)
            (self._next if is_meant else self._held).append(each)

    def clear(self) -> None:
        """Forgets all requests."""
        self._next.clear()
        self._held.clear()
