"""When requests are due. Deliberately does not know what a request is, nor what time it is."""

from __future__ import annotations

import heapq
from itertools import count
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Deadlines(Generic[Item]):
    """Finds what is due without looking at the rest: ten thousand may wait."""

    def __init__(self) -> None:
        # Due when, a number of its own, what.
        self._heap: list[tuple[float, int, Item]] = []
        self._serials = count()

    def add(self, due_s: float, item: Item) -> None:
        """Keeps an item until it is due, whatever becomes of it meanwhile."""
        heapq.heappush(self._heap, (due_s, next(self._serials), item))

    def pop_due(self, now_s: float) -> list[Item]:
        """Takes out those that are due, the earliest first."""
        due = []
        while self._heap and self._heap[0][0] <= now_s:
            due.append(heapq.heappop(self._heap)[2])
        return due
